"""Pictures made smaller before they are stored: what no crop needs is decoded once, instead of in every epoch."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

from PIL import Image

from maws_composer.data.decode import FORMATS, UndecodableImageError, decode

_ORIENTATION = 0x0112  # EXIF's tag
_COLOR_SPACE = {"RGB": b"RGB ", "L": b"GRAY"}  # as bytes 16 to 20 of an ICC profile name it


@dataclass(frozen=True)
class Resizing:
    """Brings pictures to a shorter side of `shortest_side` pixels, as JPEGs.

    Args:
        shortest_side: in pixels; a picture that has no more is kept, byte for byte.
        quality: of the JPEGs, 1 to 100, as libjpeg counts.
    """

    shortest_side: int
    quality: int

    def __call__(self, image: bytes, max_pixels: int) -> bytes:
        """The encoded picture, smaller if need be.

        What is made smaller is what training would have decoded: RGB or grey, on white where it was transparent, not
        turned. Its color profile and its EXIF orientation stay with it; the rest of its metadata does not.

        Raises:
            UndecodableImageError: see `decode`.
        """
        width, height, about, is_gray = _head(image)
        shorter = min(width, height)
        if shorter <= self.shortest_side:
            return image
        picture = decode(image, max_pixels).convert("L" if is_gray else "RGB")
        size = (round(width * self.shortest_side / shorter), round(height * self.shortest_side / shorter))
        smaller = io.BytesIO()
        picture.resize(size, Image.Resampling.LANCZOS).save(
            smaller, "JPEG", quality=self.quality, **_kept(about, picture.mode)
        )
        return smaller.getvalue()


def _head(image: bytes) -> tuple[int, int, dict[str, Any], bool]:
    """Width, height, metadata, and whether it is grey, without decoding."""
    Image.MAX_IMAGE_PIXELS = None  # `decode` looks at the number of pixels, and sets its limit
    try:
        with Image.open(io.BytesIO(image), formats=FORMATS) as picture:
            about = {"orientation": picture.getexif().get(_ORIENTATION), "profile": picture.info.get("icc_profile")}
            return picture.width, picture.height, about, picture.mode == "L" and "transparency" not in picture.info
    except Exception as error:  # Pillow's readers raise whatever their parsing stumbles over
        raise UndecodableImageError("not an image of a known format") from error


def _kept(about: dict[str, Any], mode: str) -> dict[str, Any]:
    """What a JPEG is told of the picture that it was made from, as arguments of `save`."""
    kept: dict[str, Any] = {}
    if about["orientation"]:
        exif = Image.Exif()
        exif[_ORIENTATION] = about["orientation"]
        kept["exif"] = exif
    if about["profile"] and about["profile"][16:20] == _COLOR_SPACE[mode]:  # not of a CMYK picture that is RGB now
        kept["icc_profile"] = about["profile"]
    return kept
