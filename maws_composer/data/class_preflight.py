"""Whether the labels of all sets of shards mean the same, and what the model takes them to mean."""

from __future__ import annotations

from collections.abc import Sequence

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.data.classes import CLASSES_FILE, Classes, ClassesFileError
from maws_composer.data.columns import DATASET_FILE, DatasetFileError
from maws_composer.data.index import read_bytes, read_dataset_file, read_file
from maws_composer.data.sources import Shards
from maws_composer.outages import OutageError


def class_problems(
    num_classes: int, sources: Sequence[Shards], timeout: float, by_frequency: bool = False
) -> list[Problem]:
    """Look at `classes.json` and `dataset.json` of each set of shards; the others must agree with the first.

    Args:
        num_classes: of the model.
        sources: of training and evaluation.
        timeout: seconds that reading a file may take.
        by_frequency: the classes have to be numbered from the most frequent to the rarest.
    """
    problems: list[Problem] = []
    first: tuple[str, Classes] | None = None
    for source in sources:
        path = source.path(CLASSES_FILE)
        try:
            classes = _read_classes(source, timeout)
        except OutageError:
            raise
        except ConfigError as error:
            problems += error.problems
            continue
        if first is None:
            first = path, classes
            if len(classes) != num_classes:
                message = f"is {num_classes}, {path} has {len(classes)} classes; set model.num_classes={len(classes)}"
                problems.append(Problem("model.num_classes", message))
            counts = [each.count for each in classes.classes]
            if by_frequency and counts != sorted(counts, reverse=True):
                message = f"{path} does not number its classes from the most frequent to the rarest; set it to false"
                problems.append(Problem("model.frequency_thirds", message))
        elif classes.digest() != first[1].digest():
            message = f"{path} has other classes than {first[0]}; label both with the same classes"
            problems.append(Problem(source.where, message))
    return problems


def known_classes(source: Shards, timeout: float) -> Classes | None:
    """`classes.json`; None where there is none to be read, as of shards from elsewhere.

    Raises:
        ConfigError: it is damaged.
    """
    try:
        text = read_bytes(source, CLASSES_FILE, timeout)
    except Exception:  # every kind of object storage has its own
        return None
    try:
        return Classes.from_json(text)
    except ClassesFileError as error:
        raise ConfigError([Problem(source.where, f"{source.address}: {error}")]) from error


def _read_classes(source: Shards, timeout: float) -> Classes:
    """`classes.json`, if it is the one that the labels were written by.

    Raises:
        ConfigError: it cannot be read, or is of another dataset.
    """
    path = source.path(CLASSES_FILE)
    try:
        classes = Classes.from_json(read_file(source, CLASSES_FILE, timeout))
        dataset = read_dataset_file(source, timeout)
    except (ClassesFileError, DatasetFileError) as error:
        raise ConfigError([Problem(source.where, f"{source.address}: {error}")]) from error
    if dataset is not None and dataset.classes != classes.digest():
        message = f"{path} is the classes.json of another dataset: {DATASET_FILE} beside it names other classes"
        raise ConfigError([Problem(source.where, message)])
    return classes
