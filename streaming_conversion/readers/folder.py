"""A folder of images, with an optional metadata.jsonl.

Finds images in SRC and its sub-folders by their endings, in the order of their paths. The bytes are kept as they are,
unless --resize makes them smaller.

metadata.jsonl has one JSON object per line for each image:
  file_name   path of the image, relative to SRC
  id          optional: stable and unique; by default the path
  hashtags    optional: list of strings
  caption     optional: a string
A column exists if any line has it; lines without it then get [] or "".
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from maws_composer.config.problems import not_there
from streaming_conversion.metadata import Metadata, read_metadata
from streaming_conversion.option_types import positive
from streaming_conversion.problems import ConversionError, counted
from streaming_conversion.source import Entry, Source

ENDINGS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"),
)
METADATA = "metadata.jsonl"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="SRC", type=Path, help="the folder")
    add_options(parser)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The arguments that `read` takes beside the folder."""
    parser.add_argument("--metadata", type=Path, metavar="FILE", help=f"default: SRC/{METADATA} if it exists")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N images, to try things out")


def read(arguments: argparse.Namespace) -> dict[str, Source]:
    """The folder's images as one source.

    Raises:
        ConversionError: no such folder or image, or anything wrong with the metadata; all problems at once.
    """
    folder: Path = arguments.folder
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else not_there(folder)
        raise ConversionError(f"{folder} {what}")
    files = {file.name: file for file in sorted(find_images(folder), key=lambda file: file.name)}
    if not files:
        raise ConversionError(f"{folder} holds no images ({', '.join(sorted(ENDINGS))})")
    metadata_file = arguments.metadata or _default_metadata(folder)
    metadata, problems = read_metadata(metadata_file, files) if metadata_file else (None, [])
    entries = [_entry(file, metadata) for file in files.values()]
    problems += _problems(folder, entries, metadata)
    if problems:
        raise ConversionError(f"{folder} cannot be converted: {counted(len(problems), 'problem')}", problems)
    provenance = {"folder": str(folder), "metadata": str(metadata_file) if metadata_file else None}
    return {
        "": Source("folder", provenance, entries[: arguments.limit], FromFolder(folder), {"limit": arguments.limit})
    }


@dataclass(frozen=True)
class FromFolder:
    """Reads an image by its path in the folder."""

    folder: Path

    def __call__(self, key: str) -> bytes:
        return (self.folder / key).read_bytes()


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image's path in the folder, and what changes when the image does."""

    name: str
    stamp: str


def _default_metadata(folder: Path) -> Path | None:
    path = folder / METADATA
    return path if path.exists() else None


def find_images(folder: Path, prefix: str = "", above: tuple[str, ...] = ()) -> Iterator[ImageFile]:
    """Images below `folder`, links followed, hidden files and folders left out; `prefix` goes before their names."""
    real = os.path.realpath(folder)
    if real in above:
        raise ConversionError(f"{folder} is a link to a folder that holds it")
    try:
        found = list(os.scandir(folder))
    except OSError as error:
        raise ConversionError(f"{folder} cannot be read: {error.strerror}") from error
    for item in found:
        name = prefix + item.name
        if item.name.startswith("."):
            continue
        if item.is_dir():
            yield from find_images(Path(item.path), name + "/", (*above, real))
        elif Path(item.name).suffix.lower() in ENDINGS:
            try:
                about = item.stat()
            except OSError as error:
                raise ConversionError(f"{item.path} cannot be read: {error.strerror}") from error
            yield ImageFile(name, f"{about.st_size} {about.st_mtime_ns}")


def _entry(file: ImageFile, metadata: Metadata | None) -> Entry:
    if metadata is None:
        return Entry(file.name, file.name, stamp=file.stamp)
    line = metadata.lines.get(file.name)
    return Entry(
        key=file.name,
        id=(line.id if line else None) or file.name,
        hashtags=(line.hashtags if line else ()) if metadata.has_hashtags else None,
        caption=(line.caption if line else "") if metadata.has_caption else None,
        stamp=file.stamp,
    )


def _problems(folder: Path, entries: list[Entry], metadata: Metadata | None) -> list[str]:
    """Images without a line, double ids, and names that are no text."""
    problems = []
    owners: dict[str, str] = {}
    for entry in entries:
        try:
            entry.key.encode()
        except UnicodeEncodeError:
            problems.append(f"{folder}/{entry.key!a}: the name is not UTF-8")
            continue
        if metadata is not None and entry.key not in metadata.named:
            problems.append(f"{folder / entry.key}: no line in {metadata.path}")
        elif (first := owners.setdefault(entry.id, entry.key)) != entry.key:
            at = [
                f" (line {metadata.lines[key].number})" if metadata and key in metadata.lines else ""
                for key in (first, entry.key)
            ]
            problems.append(f'id "{entry.id}" belongs to {first}{at[0]} and to {entry.key}{at[1]}')
    return problems
