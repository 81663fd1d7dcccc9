"""What can be known about a user's dataset before anything is spent on a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.data.columns import IMAGE_EMBEDDING, LABELS
from maws_composer.data.dataset import class_indices
from maws_composer.data.loader import wanted_columns
from maws_composer.data.own import OwnDataset, SampleError, open_own
from maws_composer.data.settings import HeldOutData, TrainData
from maws_composer.data.usable import UnusableSampleError, usable

if TYPE_CHECKING:
    from maws_composer.config.run import Run

_TRIED = 16  # samples, all over the dataset


def look_at_own(
    data: TrainData | HeldOutData, section: str, run: Run, columns: Sequence[str]
) -> tuple[OwnDataset | None, list[Problem]]:
    """The dataset that a section names, if it can be made, and what is wrong with it and with some of its samples.

    Args:
        data: the section, whose `dataset` is not None.
        section: "data.train" or "data.eval".
        run: whose it is.
        columns: that the stage reads besides id, and image.
    """
    assert data.dataset is not None
    key = f"{section}.dataset"
    if IMAGE_EMBEDDING in columns:
        message = "image embeddings come from shards only, which say whose they are: see `maws-composer embed`"
        return None, [Problem(key, message)]
    try:
        own = open_own(data.dataset, key, run)
    except ConfigError as error:
        return None, error.problems
    return own, _sample_problems(own, data, section, run, columns)


def _sample_problems(
    own: OwnDataset, data: TrainData | HeldOutData, section: str, run: Run, columns: Sequence[str]
) -> list[Problem]:
    """The first sample that is none, or that all of them are bad."""
    wanted = wanted_columns(data, columns)
    numbers = sorted({number * (own.size - 1) // (_TRIED - 1) for number in range(_TRIED)})
    bad = []
    for number in numbers:
        try:
            sample = usable(own.read(number, wanted), data.max_pixels)
            if LABELS in sample:
                class_indices(sample[LABELS], run.model["num_classes"])
        except UnusableSampleError as error:
            bad.append(str(error))
        except SampleError as error:
            return [Problem(f"{section}.columns.{error.column}" if error.column else f"{section}.dataset", str(error))]
        except ValueError as error:
            return [Problem(f"{section}.dataset", f"sample {number} of {own} {error}")]
    if len(bad) < len(numbers):
        return []
    return [Problem(f"{section}.dataset", f"none of {len(bad)} samples of {own} can be used: {bad[0]}")]
