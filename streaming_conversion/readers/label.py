"""Hashtags to classes: a folder or MDS dataset with hashtags, written with labels.

Pass 1 counts the hashtags of SRC and makes the classes; pass 2 writes the images that have a class, with their class
indices in the column `labels`. SRC is a folder of images with metadata.jsonl (see the reader folder), or a dataset in
MDS shards that has the column hashtags: on this machine or in object storage (s3://... and what else streaming reads),
compressed or not.

Of shards in object storage nothing is kept on the disk. Each is fetched twice in pass 1, and in pass 2 once for every
group that has images of it: with many groups it is quicker to copy the dataset to this machine first, if it fits.

Hashtags that differ in case, width or separators are one. With --canonical wordnet those that name the same synset are
one class (#brownbear, #ursusarctos), with none each is a class of its own, with table only the table's hashtags count.
The table goes before both: a line `hashtag TAB class` adds or overrides, a line `hashtag TAB` blocks. A class such as
n02132136 in it is WordNet's synset.

Images that are repeated alike when the tail is resampled lie beside one another, in groups that dataset.json lists.
DST/classes.json says what the indices mean; DST/labels.txt and labels.png show what became of the hashtags.

For held-out images give the training set's --classes: they get the same indices, and are left in the order of SRC,
without groups. A hashtag that the training set did not have leads to no class then.

Memory: pass 1 keeps the distinct hashtags; the plan of pass 2 keeps 24 bytes per image and 4 per label, and for a
folder of images also its metadata. Of shards that are compressed or in object storage each process holds two.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from maws_composer.data.classes import Classes, ClassesFileError
from maws_composer.data.columns import DATASET_FILE, DatasetFile, DatasetFileError
from streaming_conversion.canonical import AMBIGUOUS, CANONICAL, Canonical, read_table, table_digest
from streaming_conversion.groups import Grouping
from streaming_conversion.hashtags import VERSION as SPELLING
from streaming_conversion.option_types import positive, ratio
from streaming_conversion.places import Place, parse_place, read_file
from streaming_conversion.problems import ConversionError
from streaming_conversion.readers import folder
from streaming_conversion.source import Source
from streaming_conversion.wordnet import DEFAULT_FOLDER, WordNet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="SRC", type=parse_place, help="a folder, or s3://... and the like")
    folder.add_options(parser)
    add = parser.add_argument_group("classes").add_argument
    add("--canonical", choices=CANONICAL, default="wordnet", help="default: wordnet")
    add("--table", type=Path, metavar="FILE", help="hashtag, tab, class per line; or a JSON object in a file *.json")
    add("--wordnet", type=Path, default=DEFAULT_FOLDER, metavar="DIR",
        help=f"with index.noun and data.noun; default: {DEFAULT_FOLDER}")  # fmt: skip
    add("--ambiguous", choices=AMBIGUOUS, default="first",
        help="hashtags with several senses: the most frequent sense, or no class; default: first")  # fmt: skip
    add("--min-count", type=positive, default=1, metavar="N", help="images that a class has at least; default: 1")
    add("--max-classes", type=positive, metavar="N", help="only the N most frequent classes; default: all")
    add("--classes", type=Path, metavar="FILE", help="classes.json of the training set, instead of making classes")
    add_grouping(parser)


def add_grouping(parser: argparse.ArgumentParser) -> None:
    """The arguments that `grouping` reads."""
    add = parser.add_argument_group("groups").add_argument
    add("--group-ratio", type=ratio, default=Grouping.ratio, metavar="R",
        help="largest frequency of the rarest class in a group over the smallest: a resampled image's factor is off by "
        f"at most sqrt(R) - 1; default: {Grouping.ratio}")  # fmt: skip
    add("--group-images", type=positive, default=Grouping.smallest, metavar="N",
        help="a group with fewer images takes the next more frequent ones, too, so that shards do not become tiny; "
        f"default: {Grouping.smallest}")  # fmt: skip


def grouping(arguments: argparse.Namespace) -> Grouping | None:
    """How images are grouped: not at all where the classes are another dataset's."""
    return None if arguments.classes else Grouping(arguments.group_ratio, arguments.group_images)


def read(arguments: argparse.Namespace) -> dict[str, Source]:
    """The images that have a class, with their labels.

    Raises:
        ConversionError: SRC cannot be read or has no hashtags; WordNet, the table or `--classes` cannot be read; no
            image has a class.
    """
    from streaming_conversion.labelling import from_classes, from_hashtags  # slow to import, and not needed for --help

    given = read_classes(arguments.classes) if arguments.classes else None
    canonical, wordnet = (None, None) if given else _canonical(arguments)
    source = _source(arguments)
    if given is not None:
        return {"": from_classes(source, given, arguments.processes)}
    assert canonical is not None
    settings = _settings(arguments, canonical, wordnet)
    limits = (arguments.min_count, arguments.max_classes)
    return {"": from_hashtags(source, canonical, wordnet, limits, settings, grouping(arguments), arguments.processes)}


def read_classes(path: Path) -> Classes:
    """The classes of another dataset.

    Raises:
        ConversionError: the file cannot be read.
    """
    try:
        return Classes.from_json(path.read_bytes())
    except OSError as error:
        raise ConversionError(f"{path} cannot be read: {error.strerror}") from error
    except ClassesFileError as error:
        raise ConversionError(f"{path}: {error}") from error


def _canonical(arguments: argparse.Namespace) -> tuple[Canonical, WordNet | None]:
    if arguments.canonical == "table" and arguments.table is None:
        raise ConversionError("--canonical table needs --table FILE")
    table = read_table(arguments.table) if arguments.table else {}
    wordnet = WordNet(arguments.wordnet) if arguments.canonical == "wordnet" else None
    senses = wordnet.senses if wordnet else {}
    return Canonical(arguments.canonical, table, senses, arguments.ambiguous), wordnet


def _settings(arguments: argparse.Namespace, canonical: Canonical, wordnet: WordNet | None) -> dict[str, Any]:
    return {
        "canonical": arguments.canonical,
        "ambiguous": arguments.ambiguous if wordnet else None,
        "wordnet": wordnet.digest if wordnet else None,
        "table": table_digest(canonical.table) if canonical.table else None,
        "min_count": arguments.min_count,
        "max_classes": arguments.max_classes,
        "spelling": SPELLING,
    }


def _source(arguments: argparse.Namespace) -> Source:
    path: Place = arguments.folder
    if isinstance(path, Path) and not (path / "index.json").is_file():
        source = folder.read(arguments)[""]
        if source.entries[0].hashtags is None:
            raise ConversionError(f"{path} has no hashtags: no line of its metadata.jsonl has any, or there is none")
        return replace(source, reader="label")

    from streaming_conversion.mds import FromShards, read_samples  # slow to import, and not needed for --help

    if arguments.metadata:
        raise ConversionError(f"--metadata goes with a folder of images; {path} is a dataset and has its own hashtags")
    samples, digest = read_samples(path)
    settings = {"limit": arguments.limit}
    return Source("label", _provenance(path), samples[: arguments.limit], FromShards(path), settings, stamp=digest)


def _provenance(path: Place) -> dict[str, Any]:
    """What the dataset says of its own source, so that a license is not lost."""
    try:
        known = DatasetFile.from_json(read_file(path, DATASET_FILE)).source
    except (ConversionError, DatasetFileError):
        known = {}
    return known | {"labelled_from": str(path)}
