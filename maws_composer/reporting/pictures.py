"""Pictures in a run's folder, and how they changed while it was trained."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

FOLDER = "pictures"
_LARGE = 150_000  # bytes


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


def spread(pictures: list[Picture], most: int) -> list[Picture]:
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
