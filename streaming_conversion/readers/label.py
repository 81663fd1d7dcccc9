"""Hashtags to classes: a folder or MDS dataset with hashtags, written with labels.

Pass 1 counts the hashtags of SRC and makes the classes; pass 2 writes the images that have a class, with their class
indices in the column `labels`. SRC is a folder of images with metadata.jsonl (see the reader folder), or a dataset in
MDS shards that has the column hashtags: on this machine or in object storage (s3://... and what else streaming reads),
compressed or not.

Of shards in object storage nothing is kept on the disk. Each is fetched twice in pass 1, and in pass 2 once for every
group that has images of it: with many groups it is quicker to copy the dataset to this machine first, if it fits.

Hashtags that differ in case, width or separators are one, unless --raw-hashtags is given. With --canonical wordnet
those that name the same synset are one class (#brownbear, #ursusarctos), with none each is a class of its own, with
table only the table's hashtags count. The table goes before both: a line `hashtag TAB class` adds or overrides, a line
`hashtag TAB` blocks. A class such as n02132136 in it is WordNet's synset, any other a name, letter by letter: with none
the class cat is that of #cat, too, and the class Cat is another.

Images that are repeated alike when the tail is resampled lie beside one another, in groups that dataset.json lists.
DST/classes.json says what the indices mean; DST/labels.txt and labels.png show what became of the hashtags.

For held-out images give the training set's --classes: they get the same indices, and are left in the order of SRC,
without groups. A hashtag that the training set did not have leads to no class then. Training images that shall be
resampled together with those of --classes need --groups, which are made by the counts in that file.

Counts are exact. Memory: 150 MB for up to a million distinct hashtags, and more than that go to files in --scratch;
for every hashtag that leads to a class 1.5 kB (with --canonical none these are all of at least --min-count images), and
some of it again in each process; for the plan of pass 2 at most 40 bytes per image and 5 per label; and for a folder of
images also its metadata. Of shards that are compressed or in object storage each process holds two. An interrupted
labelling counts anew, and then goes on with the shards that it has.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from maws_composer.data.columns import DATASET_FILE, RESIZE, DatasetFile, DatasetFileError
from streaming_conversion.canonical import AMBIGUOUS, CANONICAL, Canonical, read_table, table_digest
from streaming_conversion.hashtags import RAW, VERSION, as_written, normalise
from streaming_conversion.label_options import add_classes, add_grouping, grouping, read_classes, refuse
from streaming_conversion.option_types import positive
from streaming_conversion.places import Place, parse_place, read_file
from streaming_conversion.problems import ConversionError
from streaming_conversion.readers import folder
from streaming_conversion.source import Source
from streaming_conversion.wordnet import DEFAULT_FOLDER, WordNet

_MAKING = ("canonical", "table", "wordnet", "ambiguous", "min_count", "max_classes", "raw_hashtags")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="SRC", type=parse_place, help="a folder, or s3://... and the like")
    folder.add_options(parser)
    add = parser.add_argument_group("classes").add_argument
    add("--canonical", choices=CANONICAL, help="default: wordnet")
    add("--table", type=Path, metavar="FILE", help="hashtag, tab, class per line; or a JSON object in a file *.json")
    add("--wordnet", type=Path, metavar="DIR", help=f"with index.noun and data.noun; default: {DEFAULT_FOLDER}")
    add("--ambiguous", choices=AMBIGUOUS,
        help="hashtags with several senses: the most frequent sense, or no class; default: first")  # fmt: skip
    add("--min-count", type=positive, metavar="N", help="images that a class has at least; default: 1")
    add("--max-classes", type=positive, metavar="N", help="only the N most frequent classes; default: all")
    add("--raw-hashtags", action="store_true", default=None,
        help="hashtags are one only if they are so letter by letter; so are the table's and WordNet's")  # fmt: skip
    add_classes(parser)
    add_grouping(parser)


def read(arguments: argparse.Namespace) -> dict[str, Source]:
    """The images that have a class, with their labels.

    Raises:
        ConversionError: SRC cannot be read or has no hashtags; WordNet, the table or `--classes` cannot be read; an
            option would do nothing; no image has a class.
    """
    from streaming_conversion.labelling import from_classes, from_hashtags  # slow to import, and not needed for --help

    groups = grouping(arguments)
    common: dict[str, Any] = {"grouping": groups, "processes": arguments.processes, "scratch": arguments.scratch}
    if arguments.classes:
        refuse(arguments, _MAKING, "with --classes, whose classes and spelling are taken")
        classes = read_classes(arguments.classes, groups)
        return {"": from_classes(_source(arguments), classes, **common)}
    canonical, wordnet = _canonical(arguments)
    settings = _settings(arguments, canonical, wordnet)
    limits = (settings["min_count"], settings["max_classes"])
    return {"": from_hashtags(_source(arguments), canonical, wordnet, limits, settings, **common)}


def _canonical(arguments: argparse.Namespace) -> tuple[Canonical, WordNet | None]:
    how = arguments.canonical or "wordnet"
    if how == "table" and arguments.table is None:
        raise ConversionError("--canonical table needs --table FILE")
    spell = as_written if arguments.raw_hashtags else normalise
    if how != "wordnet":
        refuse(arguments, ("wordnet", "ambiguous"), f"with --canonical {how}")
        table = read_table(arguments.table, spell) if arguments.table else {}
        return Canonical(how, table, spell=spell), None
    wordnet = WordNet(arguments.wordnet or DEFAULT_FOLDER, spell)
    table = read_table(arguments.table, spell, wordnet.has) if arguments.table else {}
    return Canonical(how, table, wordnet.senses, arguments.ambiguous or AMBIGUOUS[0], spell), wordnet


def _settings(arguments: argparse.Namespace, canonical: Canonical, wordnet: WordNet | None) -> dict[str, Any]:
    return {
        "canonical": canonical.how,
        "ambiguous": canonical.ambiguous if wordnet else None,
        "wordnet": wordnet.digest if wordnet else None,
        "table": table_digest(canonical.table) if canonical.table else None,
        "min_count": arguments.min_count or 1,
        "max_classes": arguments.max_classes,
        "spelling": RAW if arguments.raw_hashtags else VERSION,
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
    """What the dataset says of its own source, so that a license is not lost, and how large its pictures are."""
    known: dict[str, Any] = {}
    try:
        dataset = DatasetFile.from_json(read_file(path, DATASET_FILE))
    except (ConversionError, DatasetFileError):
        pass
    else:
        known = dataset.source | ({RESIZE: dataset.shortest_side} if dataset.shortest_side else {})
    return known | {"labelled_from": str(path)}
