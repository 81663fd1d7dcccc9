"""Does a picture decode?"""

from __future__ import annotations

import io
import warnings

from PIL import Image

MAX_PIXELS = 178_956_970  # where Pillow itself begins to refuse
MAX_BYTES = 1 << 31  # MDS counts a shard's bytes in 32 bits


def why_unusable(image: bytes, decode: bool, max_pixels: int) -> str | None:
    """Why the encoded `image` cannot be trained on, or None if it can.

    Args:
        image: the encoded picture.
        decode: whether to decode it to RGB, all of it, as the training will.
        max_pixels: width x height above which a picture is refused before it is decoded.
    """
    if len(image) > MAX_BYTES:
        return f"{len(image):,} bytes are more than a shard can hold"
    if not decode:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures: max_pixels is our limit
            with Image.open(io.BytesIO(image)) as picture:
                if picture.width * picture.height > max_pixels:
                    return f"{picture.width} x {picture.height} pixels are more than --max-pixels {max_pixels}"
                picture.convert("RGB")
    except Exception as error:  # a damaged file makes Pillow raise anything, from SyntaxError to struct.error
        # the message of UnidentifiedImageError names a memory address
        reason = "" if type(error).__name__ == "UnidentifiedImageError" else f": {error}"
        return f"does not decode ({type(error).__name__}{reason})"
    return None
