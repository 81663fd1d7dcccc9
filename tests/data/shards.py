"""Small sets of shards for tests."""

from __future__ import annotations

import io
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from streaming import MDSWriter


def png(number: int, side: int = 12) -> bytes:
    """A picture that no other number has."""
    pixels = np.random.default_rng(number).integers(0, 256, (side, side + 4, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_shards(
    folder: Path,
    count: int = 100,
    per_shard: int = 13,
    prefix: str = "",
    bad: Collection[int] = (),
    names: tuple[str, str] = ("image", "id"),
    hashes: tuple[str, ...] = ("sha1",),
    compression: str | None = None,
) -> Path:
    """`count` pictures, `per_shard` in each shard; those with a number in `bad` are no images. Ids: prefix + number."""
    image, name = names
    row = 1200  # more than a picture takes
    options: dict[str, Any] = {"size_limit": per_shard * row, "hashes": list(hashes), "compression": compression}
    columns = {image: "bytes", name: "str"}
    with MDSWriter(out=str(folder), columns=columns, **options) as writer:
        for number in range(count):
            data = b"no picture" if number in bad else png(number)
            # Text after a PNG's end is ignored; so all rows are of one length.
            data += b" " * (row - 12 - len(data) - len(f"{prefix}{number}"))
            writer.write({image: data, name: f"{prefix}{number}"})
    return folder


def index_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "index.json").read_text())


def write_index(folder: Path, index: dict[str, Any]) -> None:
    (folder / "index.json").write_text(json.dumps(index))


def shard_files(folder: Path) -> list[Path]:
    return [folder / shard["raw_data"]["basename"] for shard in index_of(folder)["shards"]]
