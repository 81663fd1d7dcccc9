"""Every kind of image becomes RGB, and what is none is told with a reason."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from maws_composer.data.decode import FORMATS, UndecodableImageError, decode

MANY = 10**6
RED = (200, 30, 40)


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def color(data: bytes) -> tuple[int, int, int]:
    image = decode(data, MANY)
    assert image.mode == "RGB" and image.size == (16, 12)
    return image.getpixel((8, 6))


def plain(mode: str = "RGB", fill=RED) -> Image.Image:
    return Image.new(mode, (16, 12), fill)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_each_format_is_read(form):
    assert np.allclose(color(encoded(plain(), form)), RED, atol=6)


def test_each_kind_of_pixel_becomes_rgb():
    assert color(encoded(plain("L", 77))) == (77, 77, 77)
    assert color(encoded(plain("1", 1))) == (255, 255, 255)
    assert color(encoded(plain().quantize(4))) == RED
    assert np.allclose(color(encoded(plain().convert("CMYK"), "JPEG", quality=95)), RED, atol=4)
    assert np.allclose(color(encoded(plain().convert("YCbCr"), "JPEG", quality=95)), RED, atol=4)


def test_sixteen_bits_keep_their_upper_half():
    gray = Image.fromarray(np.full((12, 16), 0x8123, np.uint16))
    assert color(encoded(gray)) == (0x81,) * 3
    assert color(encoded(gray, "TIFF")) == (0x81,) * 3


def test_transparent_pixels_are_white():
    clear = plain("RGBA", (10, 20, 30, 0))
    assert color(encoded(clear)) == (255, 255, 255)
    assert color(encoded(plain("RGBA", (*RED, 255)))) == RED
    assert color(encoded(plain("RGBA", (0, 0, 0, 128)))) == (127, 127, 127)
    assert color(encoded(plain("LA", (9, 0)))) == (255, 255, 255)
    palette = plain().quantize(4)
    assert color(encoded(palette, transparency=palette.getpixel((0, 0)))) == (255, 255, 255)
    assert color(encoded(plain(), transparency=RED)) == (255, 255, 255)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_truncated_is_undecodable(form):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    data = encoded(noise, form)
    for cut in (10, len(data) // 2, len(data) - 40):
        with pytest.raises(UndecodableImageError):
            decode(data[:cut], MANY)


@pytest.mark.parametrize(
    "data", [b"", b"<html>", b"\xff\xd8\xff\xe0", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_what_is_no_image_is_undecodable(data):
    with pytest.raises(UndecodableImageError, match="not an image of a known format"):
        decode(data, MANY)


def test_too_many_pixels_are_refused_before_they_are_decoded():
    data = encoded(plain())
    assert decode(data, 16 * 12).size == (16, 12)
    pillows = Image.MAX_IMAGE_PIXELS
    with pytest.raises(UndecodableImageError, match="16 x 12 pixels, the limit is 191"):
        decode(data[:60], 191)  # only the head is there: nothing else was looked at
    with pytest.raises(UndecodableImageError, match="limit"):
        decode(encoded(Image.new("1", (20_000, 20_000))), 1_000_000)
    assert pillows == Image.MAX_IMAGE_PIXELS  # which others in this process rely on


def test_no_format_that_starts_other_programs_is_read():
    assert "EPS" not in FORMATS and {"JPEG", "PNG", "WEBP"} <= set(FORMATS)
