"""What readers that write labels are told alike: another dataset's classes, and how images are grouped."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable

from maws_composer.data.classes import Classes, ClassesFileError
from streaming_conversion.groups import Grouping
from streaming_conversion.option_types import positive, ratio
from streaming_conversion.places import Place, parse_place, read_file
from streaming_conversion.problems import ConversionError


def add_classes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--classes", type=parse_place, metavar="FILE",
        help="classes.json of the training set, a file or in object storage, instead of making classes"
    )  # fmt: skip


def add_grouping(parser: argparse.ArgumentParser) -> None:
    """The arguments that `grouping` reads."""
    add = parser.add_argument_group("groups").add_argument
    add("--groups", action=argparse.BooleanOptionalAction, default=None,
        help="put images together that are resampled alike; default: yes, but with --classes no")  # fmt: skip
    add("--group-ratio", type=ratio, metavar="R",
        help="largest frequency of the rarest class in a group over the smallest: a resampled image's factor is off by "
        "at most sqrt(R) - 1, and by more in groups that --group-images makes larger; dataset.json tells each group's "
        f"frequencies; default: {Grouping.ratio}")  # fmt: skip
    add("--group-images", type=positive, metavar="N",
        help="a group with fewer images takes the next more frequent ones, too, so that shards do not become tiny; "
        f"default: {Grouping.smallest}")  # fmt: skip


def grouping(arguments: argparse.Namespace) -> Grouping | None:
    """How images are grouped, or None.

    Raises:
        ConversionError: an option would do nothing.
    """
    if not (arguments.classes is None if arguments.groups is None else arguments.groups):
        refuse(arguments, ("group_ratio", "group_images"), "without groups; --groups makes them")
        return None
    return Grouping(arguments.group_ratio or Grouping.ratio, arguments.group_images or Grouping.smallest)


def read_classes(path: Place, grouping: Grouping | None) -> Classes:
    """The classes of another dataset.

    Raises:
        ConversionError: the file cannot be read, or groups cannot be made by its counts.
    """
    folder, name = os.path.split(path)
    content = read_file(parse_place(folder or "."), name)
    try:
        classes = Classes.from_json(content)
    except ClassesFileError as error:
        raise ConversionError(f"{path}: {error}") from error
    empty = [f"class {index}, {each.name}" for index, each in enumerate(classes.classes) if each.count < 1]
    if grouping is not None and empty:
        raise ConversionError(f"{path} has classes of no image, so that there is no grouping by frequency", empty)
    return classes


def refuse(arguments: argparse.Namespace, names: Iterable[str], why: str) -> None:
    """Refuse options that would do nothing.

    Args:
        arguments: None where an option was not given.
        names: of the options, as attributes.
        why: when they do nothing.
    """
    given = ["--" + name.replace("_", "-") for name in names if getattr(arguments, name) is not None]
    if given:
        raise ConversionError(f"{' and '.join(given)} would do nothing {why}")
