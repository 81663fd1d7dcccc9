"""A folder per class: SRC/class/*.jpg, written with labels.

Class indices follow the names of the folders, sorted. A folder that is named as a WordNet synset (n02132136) is that
synset. For a validation split give the training set's --classes, so that both have the same indices; it then may lack
classes, and is left in the order of its paths.

DST/classes.json says what the indices mean. Images of classes that are about equally frequent lie beside one another,
in groups that dataset.json lists, so that the tail can be resampled.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from maws_composer.data.classes import Classes, LabelClass
from streaming_conversion.canonical import SYNSET
from streaming_conversion.problems import ConversionError, counted
from streaming_conversion.readers.folder import FromFolder, find_images
from streaming_conversion.readers.label import add_grouping, grouping, read_classes
from streaming_conversion.source import Entry, Source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="SRC", type=Path, help="the folder that holds the classes' folders")
    parser.add_argument("--classes", type=Path, metavar="FILE", help="classes.json of the training set")
    add_grouping(parser)


def read(arguments: argparse.Namespace) -> dict[str, Source]:
    """The folder's images as one source, each with its one label.

    Raises:
        ConversionError: no such folder or image, images outside of a class's folder, or a folder that is no class of
            `--classes`.
    """
    folder: Path = arguments.folder
    if not folder.is_dir():
        raise ConversionError(f"{folder} is not a folder")
    files = sorted(find_images(folder), key=lambda file: file.name)
    if not files:
        raise ConversionError(f"{folder} holds no images")
    if outside := [file.name for file in files if "/" not in file.name]:
        raise ConversionError(f"{counted(len(outside), 'image')} of {folder} in no class's folder", outside)
    names = [file.name.split("/")[0] for file in files]
    classes = read_classes(arguments.classes) if arguments.classes else _classes(names)
    indices = {each.name: index for index, each in enumerate(classes.classes)}
    if unknown := sorted(set(names) - indices.keys()):
        raise ConversionError(
            f"{folder} has {counted(len(unknown), 'folder')} that {arguments.classes} does not name", unknown
        )

    import numpy as np

    from streaming_conversion.labels import Ragged, labelled  # slow to import, and not needed for --help

    entries = [Entry(file.name, file.name, stamp=file.stamp) for file in files]
    source = Source("imagefolder", {"folder": str(folder)}, entries, FromFolder(folder))
    labels = Ragged.of(np.ones(len(files), np.int64), np.array([indices[name] for name in names], np.int32))
    return {"": labelled(source, labels, classes, grouping(arguments), {})}


def _classes(names: list[str]) -> Classes:
    counts = Counter(names)
    classes = [LabelClass(name, counts[name], name if SYNSET.fullmatch(name) else None) for name in sorted(counts)]
    return Classes(tuple(classes), len(names), {"made_from": "folders"})
