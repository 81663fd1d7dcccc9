"""Whether the labels of shards are classes: a look into some of them, before training finds out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.data.columns import ID, LABELS
from maws_composer.data.dataset import class_indices
from maws_composer.data.guards import DataStream, ShardError
from maws_composer.data.index import read_index
from maws_composer.data.settings import Source
from maws_composer.data.sources import Shards
from maws_composer.outages import OutageError, is_mistake


def label_problems(sources: Sequence[Shards], data: Source, num_classes: int) -> list[Problem]:
    """Look at all labels of three shards of each set: the first, the last and the smallest.

    The last is where labelling puts the images of the rarest classes, which have the largest indices.

    Args:
        sources: whose indexes are known to be fine.
        data: their settings.
        num_classes: of the model.
    """
    problems: list[Problem] = []
    for source in sources:
        try:
            index = read_index(source, data.download_timeout)
            chosen = [index.shards[number] for number in dict.fromkeys((0, len(index.shards) - 1, index.smallest))]
            found = next((wrong for shard in chosen for wrong in _wrong_labels(shard, source, data, num_classes)), None)
        except OutageError:
            raise
        except ConfigError as error:
            problems += error.problems
        except (ShardError, ValueError, IndexError, KeyError, OSError) as error:
            problem = Problem(source.where, str(error))
            if source.is_cached and not is_mistake(error):
                raise OutageError([problem]) from error
            problems.append(problem)
        else:
            problems += [Problem(source.where, found)] if found else []
    return problems


def _wrong_labels(shard: Mapping[str, Any], source: Shards, data: Source, num_classes: int) -> Iterator[str]:
    """What is wrong with the labels of a shard, sample by sample."""
    columns = {name: data.columns.get(name, name) for name in (ID, LABELS)}  # type: ignore[call-overload]
    with tempfile.TemporaryDirectory() as folder:
        # Always in a cache of its own, which is empty again afterwards: two runs may check at one time.
        place = replace(source, local=None) if source.is_cached else source
        stream = DataStream(place, Path(folder), columns, data)
        reader = stream.reader(shard)
        stream.prepare_shard(reader)
        for number in range(shard["samples"]):
            sample = reader.get_item(number)
            try:
                class_indices(sample[LABELS], num_classes)
            except ValueError as error:
                yield f"{sample[ID]} (sample {number} of {source.path(shard['raw_data']['basename'])}) {error}"
