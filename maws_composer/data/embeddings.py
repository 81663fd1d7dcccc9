"""Whether the image embeddings of a dataset are those of the image tower that they are trained with."""

from __future__ import annotations

from collections.abc import Sequence

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.data.columns import DATASET_FILE, DatasetFile, DatasetFileError
from maws_composer.data.index import read_dataset_file
from maws_composer.data.sources import Shards

_REMEDY = "make them with `maws-composer embed`"


def embedding_problems(
    sources: Sequence[Shards], tower: str, fingerprint: str, image_size: int, timeout: float
) -> list[Problem]:
    """Look at `dataset.json` of each set of shards.

    Args:
        sources: of training and evaluation.
        tower: address of the image tower, for people.
        fingerprint: of its weights, see `maws_composer.weights.fingerprint`.
        image_size: side of the images that it is to see, in pixels.
        timeout: seconds that reading a file may take.
    """
    problems = []
    for source in sources:
        try:
            dataset = read_dataset_file(source, timeout)
        except DatasetFileError as error:
            problems.append(Problem(source.where, f"{source.address}: {error}"))
        except ConfigError as error:
            problems += error.problems
        else:
            reason = _why_not(dataset, tower, fingerprint, image_size)
            problems += [Problem(source.where, f"{source.path(DATASET_FILE)} {reason}")] if reason else []
    return problems


def _why_not(dataset: DatasetFile | None, tower: str, fingerprint: str, image_size: int) -> str | None:
    if dataset is None:
        return f"is missing, which says whose embeddings these are; {_REMEDY}"
    if dataset.encoder is None:
        return f"does not say whose embeddings these are; {_REMEDY}"
    if dataset.encoder != fingerprint:
        theirs = f"{dataset.source.get('weights')} ({dataset.encoder[:12]})"
        return f"has embeddings of another encoder: of {theirs}, and not of {tower} ({fingerprint[:12]})"
    if (size := dataset.settings.get("image_size")) != image_size:
        return f"has embeddings of images of {size} pixels, model.image_size is {image_size}"
    return None
