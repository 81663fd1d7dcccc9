"""From the bytes of an image file to pixels."""

from __future__ import annotations

import io
import warnings

import numpy as np
from jaxtyping import UInt8
from PIL import Image

# Not all that Pillow opens: EPS starts Ghostscript, and rare readers are where rare holes are.
_WANTED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "MPO", "PPM", "JPEG2000", "AVIF")
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_BACKGROUND = (255, 255, 255)
_END_OF_JPEG = b"\xff\xd9"  # some writers add a few bytes

Image.init()
FORMATS = tuple(name for name in _WANTED if name in Image.OPEN)


class UndecodableImageError(ValueError):
    """The bytes are not an image that we read; the message says why."""


def decode(data: bytes | Image.Image, max_pixels: int) -> Image.Image:
    """The image as RGB, 8 bits; where it is transparent, on white.

    Args:
        data: a file's bytes, or what Pillow opened elsewhere.
        max_pixels: the limit.

    Raises:
        UndecodableImageError: no known format, truncated, damaged, or of more than `max_pixels` pixels, which is found
            out before anything is decoded.
    """
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels  # else Pillow's own limit would stand in the way of a higher one
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = data if isinstance(data, Image.Image) else Image.open(io.BytesIO(data), formats=FORMATS)
            if image.width * image.height > max_pixels:
                raise UndecodableImageError(f"{image.width} x {image.height} pixels, the limit is {max_pixels}")
            image.load()
            return _to_rgb(image)
    except UndecodableImageError:
        raise
    except Exception as error:  # Pillow's readers raise whatever their parsing stumbles over
        reason = "not an image of a known format" if "cannot identify" in str(error) else str(error)
        raise UndecodableImageError(reason or type(error).__name__) from error


def jpeg_header(data: bytes | Image.Image, max_pixels: int) -> Image.Image | None:
    """A whole JPEG of three channels, or in grey, of which only the header is read yet; None: it is anything else."""
    if isinstance(data, bytes) and data[:2] == b"\xff\xd8" and _END_OF_JPEG in data[-64:]:
        try:
            image = Image.open(io.BytesIO(data), formats=("JPEG",))
        except Exception:  # as in `decode`, which says why
            return None
        if image.mode in ("RGB", "L") and image.width * image.height <= max_pixels:
            return image
    return None


def resized_crop(
    image: Image.Image, box: tuple[int, int, int, int], size: int, mirrored: bool = False
) -> UInt8[np.ndarray, "3 size size"]:
    """A box of the picture, resized to a square, bicubic, channels first."""
    # First crop, then resize: `resize(box=…)` would let pixels outside of the box bleed in.
    square = image.crop(box).resize((size, size), Image.Resampling.BICUBIC)
    if mirrored:
        square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(square).transpose(2, 0, 1).copy()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in _SIXTEEN_BIT:
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise UndecodableImageError("floating-point pixels have no known range")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _on_background(image.convert("RGBA"))
    return image.convert("RGB")


def _on_background(image: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", image.size, _BACKGROUND)
    canvas.paste(image, mask=image.getchannel("A"))
    return canvas
