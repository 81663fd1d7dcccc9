"""A folder per class: SRC/class/*.jpg, written with labels.

Class indices follow the names of the folders, sorted. A folder that is named as a WordNet synset (n02132136) is that
synset. For a validation split give the training set's --classes, so that both have the same indices; it then may lack
classes, and is left in the order of its paths. A folder may be named as its class or as its class's synset there.

DST/classes.json says what the indices mean. Images of classes that are about equally frequent lie beside one another,
in groups that dataset.json lists, so that the tail can be resampled.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from pathlib import Path

from maws_composer.config.problems import not_there
from maws_composer.data.classes import Classes, LabelClass
from streaming_conversion.canonical import SYNSET
from streaming_conversion.label_options import add_classes, add_grouping, grouping, read_classes
from streaming_conversion.problems import ConversionError, counted
from streaming_conversion.readers.folder import FromFolder, find_images
from streaming_conversion.source import Entry, Source


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="SRC", type=Path, help="the folder that holds the classes' folders")
    add_classes(parser)
    add_grouping(parser)


def read(arguments: argparse.Namespace) -> dict[str, Source]:
    """The folder's images as one source, each with its one label.

    Raises:
        ConversionError: no such folder or image, images outside of a class's folder, a folder that is no class of
            `--classes` or could be several, or an option would do nothing.
    """
    folder: Path = arguments.folder
    groups = grouping(arguments)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else not_there(folder)
        raise ConversionError(f"{folder} {what}")
    files = sorted(find_images(folder), key=lambda file: file.name)
    if not files:
        raise ConversionError(f"{folder} holds no images")
    if outside := [file.name for file in files if "/" not in file.name]:
        raise ConversionError(f"{counted(len(outside), 'image')} of {folder} in no class's folder", outside)
    names = [file.name.split("/")[0] for file in files]
    if arguments.classes:
        classes = read_classes(arguments.classes, groups)
        indices = _places(sorted(set(names)), classes, f"{folder} and {arguments.classes} do not fit")
    else:
        classes = _classes(names)
        indices = {each.name: index for index, each in enumerate(classes.classes)}

    import numpy as np

    from streaming_conversion.labels import Ragged, labelled  # slow to import, and not needed for --help

    entries = [Entry(file.name, file.name, stamp=file.stamp) for file in files]
    source = Source("imagefolder", {"folder": str(folder)}, entries, FromFolder(folder))
    labels = Ragged.of(np.ones(len(files), np.int64), np.array([indices[name] for name in names], np.int32))
    return {"": labelled(source, labels, classes, groups, {})}


def _classes(names: list[str]) -> Classes:
    counts = Counter(names)
    classes = [LabelClass(name, counts[name], name if SYNSET.fullmatch(name) else None) for name in sorted(counts)]
    return Classes(tuple(classes), len(names), {"made_from": "folders"})


def _places(folders: list[str], classes: Classes, summary: str) -> dict[str, int]:
    """Folder -> index of its class: the synset of that identifier, or else the only class of that name.

    Raises:
        ConversionError: there is none, or are several.
    """
    synsets = {each.synset: index for index, each in enumerate(classes.classes) if each.synset}
    named = defaultdict(list)
    for index, each in enumerate(classes.classes):
        named[each.name].append(index)
    found, problems = {}, []
    for folder in folders:
        indices = [synsets[folder]] if folder in synsets else named.get(folder, [])
        if len(indices) == 1:
            found[folder] = indices[0]
        elif indices:
            which = " or ".join(classes.classes[index].synset or f"index {index}" for index in indices)
            problems.append(f"{folder}: {len(indices)} classes have that name, {which}; name the folder by its synset")
        else:
            problems.append(f"{folder}: there is no such class")
    if problems:
        raise ConversionError(f"{summary}: {counted(len(problems), 'problem')}", problems)
    return found
