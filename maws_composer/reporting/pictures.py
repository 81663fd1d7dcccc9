"""Pictures in a run's folder, and how they changed while it was trained."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image

Item = TypeVar("Item")

FOLDER = "pictures"
MOST = 12  # of one thing, on a page: it has to be carried
_MOST_IN_ALL = 200
_LARGE = 150_000  # bytes
_BATCH = re.compile(r"-ba(\d+)$")


@dataclass(frozen=True)
class Picture:
    """A picture of a run.

    Args:
        path: of the PNG.
        name: what it shows; there may be several from different batches.
        caption: a line of text.
        batch: after which it was made.
    """

    path: Path
    name: str
    caption: str
    batch: int


def find_pictures(folder: Path) -> dict[str, list[Picture]]:
    """Name -> the pictures in `folder` that have it, in the order of their batches.

    The caption is in a JSON file beside the PNG, or in a text file, or it is the PNG's name.
    """
    found: dict[str, list[Picture]] = {}
    for picture in sorted(map(_describe, folder.glob("*.png")), key=lambda picture: (picture.name, picture.batch)):
        found.setdefault(picture.name, []).append(picture)
    return found


def worth_carrying(names: Iterable[str]) -> list[str]:
    """Of the files in a folder of pictures, those that a page about the run shows, and what describes them.

    At most 12 of one thing, the first and the newest included, and 200 in all, of the newest batches.
    """
    files = set(names)
    of_one: dict[str, list[tuple[int, str]]] = {}
    for stem in sorted(name.removesuffix(".png") for name in files if name.endswith(".png")):
        batch = _BATCH.search(stem)
        of_one.setdefault(_BATCH.sub("", stem), []).append((int(batch[1]) if batch else 0, stem))
    chosen = [each for pictures in of_one.values() for each in spread(sorted(pictures), MOST)]
    newest = sorted(chosen, reverse=True)[:_MOST_IN_ALL]
    return [name for _, stem in newest for end in ("json", "txt", "png") if (name := f"{stem}.{end}") in files]


def spread(pictures: Sequence[Item], most: int) -> Sequence[Item]:
    """At most `most` of them, the first and the last included, evenly spread between."""
    if len(pictures) <= most:
        return pictures
    return [pictures[number * (len(pictures) - 1) // (most - 1)] for number in range(most)]


def embedded(picture: Picture) -> tuple[bytes, str, str]:
    """The picture as a page has it, its caption, and its format: a large one as WebP, a tenth of the PNG."""
    data = picture.path.read_bytes()
    if len(data) <= _LARGE:
        return data, picture.caption, "png"
    webp = io.BytesIO()
    with Image.open(picture.path) as image:
        image.save(webp, "WEBP", quality=85)
    return webp.getvalue(), picture.caption, "webp"


def _describe(path: Path) -> Picture:
    about, text = path.with_suffix(".json"), path.with_suffix(".txt")
    if about.exists():
        content = json.loads(about.read_text())
        name = content.get("name", path.stem)
        return Picture(path, name, content.get("caption", name), int(content.get("batch", 0)))
    caption = text.read_text().strip() if text.exists() else path.stem.replace("-", " ").replace("_", " ")
    return Picture(path, path.stem, caption, 0)
