"""JPEGs of a natural picture, for tests of decoders."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
from PIL import Image


def photograph(size: tuple[int, int], mode: str = "RGB", number: int = 0, **options: object) -> bytes:
    """A natural picture, which comes with matplotlib; another number is another part of it."""
    with Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg") as image:
        part = image.convert(mode).crop((number, number, image.width, image.height))
    file = io.BytesIO()
    part.resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def with_impossible_sampling(jpeg: bytes) -> bytes:
    """It begins and ends as a whole JPEG does, and no decoder can read it: its sampling factors are none."""
    frame = jpeg.index(b"\xff\xc0")
    factors = frame + 11  # after marker, length, precision, height, width, number of channels and the first one's id
    return jpeg[:factors] + b"\x77" + jpeg[factors + 1 :]
