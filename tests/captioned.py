"""Small sets of captioned pictures: fields of a color, whose name the caption has, in one of two languages."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from streaming import MDSWriter

COLORS = {
    "red": (220, 30, 30), "green": (30, 200, 60), "blue": (30, 60, 220), "yellow": (230, 220, 40),
    "black": (10, 10, 10), "white": (245, 245, 245), "violet": (140, 40, 180), "orange": (240, 140, 20),
}  # fmt: skip
IN_GERMAN = {
    "red": "rot", "green": "grün", "blue": "blau", "yellow": "gelb",
    "black": "schwarz", "white": "weiß", "violet": "violett", "orange": "orange",
}  # fmt: skip


def captions(count: int) -> list[str]:
    """Two colors in each, so that there are 64 of them, in either language."""
    names = list(COLORS)
    pairs = [(names[number % 8], names[number // 8 % 8]) for number in range(count)]
    return [
        f"{below} under {above}" if number % 3 else f"{IN_GERMAN[below]} unter {IN_GERMAN[above]}"
        for number, (above, below) in enumerate(pairs)
    ]


def write_captioned(folder: Path, count: int = 256, side: int = 28, shard_size: int = 1 << 15) -> Path:
    """MDS shards of `image`, `id` and `caption`."""
    columns, names = {"image": "bytes", "id": "str", "caption": "str"}, list(COLORS)
    rng = np.random.default_rng(0)
    with MDSWriter(out=str(folder), columns=columns, hashes=["sha1"], size_limit=shard_size) as writer:
        for number, caption in enumerate(captions(count)):
            above, below = COLORS[names[number % 8]], COLORS[names[number // 8 % 8]]
            field = np.repeat(np.array([above, below]), side // 2, axis=0)[:, None].repeat(side, axis=1)
            noisy = (field + rng.integers(-10, 11, field.shape)).clip(0, 255).astype(np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(noisy).save(buffer, "PNG")
            writer.write({"image": buffer.getvalue(), "id": f"{number:04d}", "caption": caption})
    return folder
