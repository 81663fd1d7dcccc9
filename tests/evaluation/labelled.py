"""Labelled pictures for tests."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from streaming import MDSWriter

COLORS = ((200, 40, 40), (40, 180, 60), (50, 60, 210))


def write_labelled(folder: Path, count: int, seed: int = 0) -> Path:
    """Noisy squares of one of three colors, their class; every fifth has a second class, 3."""
    rng = np.random.default_rng(seed)
    columns = {"image": "bytes", "id": "str", "labels": "ndarray:int32"}
    with MDSWriter(out=str(folder), columns=columns, hashes=["sha1"], size_limit=1 << 14) as writer:
        for number in range(count):
            color = int(rng.integers(len(COLORS)))
            pixels = np.clip(np.array(COLORS[color]) + rng.normal(0, 30, (28, 30, 3)), 0, 255).astype(np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            labels = [color, 3] if number % 5 == 0 else [color]
            writer.write({"image": buffer.getvalue(), "id": str(number), "labels": np.array(labels, np.int32)})
    return folder
