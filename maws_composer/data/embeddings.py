"""Whether the image embeddings of a dataset are those of the image tower that they are trained with."""

from __future__ import annotations

from collections.abc import Sequence

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.data.columns import DATASET_FILE, IMAGE_EMBEDDING, DatasetFile, DatasetFileError
from maws_composer.data.index import read_dataset_file, read_index
from maws_composer.data.settings import Source
from maws_composer.data.sources import Shards
from maws_composer.outages import OutageError

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
        except OutageError:
            raise
        except ConfigError as error:
            problems += error.problems
        else:
            reason = _why_not(dataset, tower, fingerprint, image_size)
            problems += [Problem(source.where, f"{source.path(DATASET_FILE)} {reason}")] if reason else []
    return problems


def width_problems(sources: Sequence[Shards], data: Source, width: int) -> list[Problem]:
    """Look into `index.json` of each set of shards, which names the embeddings' width if all have the same.

    Args:
        sources: the shards.
        data: their settings.
        width: of the image tower.
    """
    names = {str(ours): theirs for ours, theirs in data.columns.items()}
    column = names.get(IMAGE_EMBEDDING, IMAGE_EMBEDDING)
    problems = []
    for source in sources:
        index = read_index(source, data.download_timeout)
        encodings = {dict(layout)[column] for layout in index.layouts}
        shapes = {encoding.split(":")[2] for encoding in encodings if encoding.count(":") == 2}
        if wrong := sorted(shapes - {str(width)}):
            message = f"{source.address} has embeddings {' and '.join(wrong)} wide, model.size has a width of {width}"
            problems.append(Problem(source.where, message))
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
