"""From the columns of a sample as shards hold them to what is trained on, or why a sample cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from maws_composer.data.columns import CAPTION, IMAGE, IMAGE_EMBEDDING
from maws_composer.data.decode import UndecodableImageError, decode

Sample = dict[str, Any]


class UnusableSampleError(ValueError):
    """A sample that nothing can be learned from; another takes its place.

    Args:
        column: that is to blame.
        reason: what it is or does, such as "is empty".
    """

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(f"{column} {reason}")
        self.column = column


def usable(
    raw: Mapping[str, Any],
    max_pixels: int,
    optional: Collection[str] = (),
    decode: Callable[[Any, int], Any] = decode,
) -> Sample:
    """The sample with its image decoded (PIL, RGB), its caption as str and its embedding as float32.

    Args:
        raw: columns as `ColumnReader` reads them: image and caption as bytes; or an image of Pillow's, and text.
        max_pixels: see `decode`.
        optional: columns that a sample may be without: CAPTION, which is "" then.
        decode: another way to decode an image.

    Raises:
        UnusableSampleError: the image is not decodable, the caption is empty or not UTF-8, or the embedding not finite.
    """
    read = {
        IMAGE: lambda value: _image(value, max_pixels, decode),
        CAPTION: lambda value: _caption(value, may_be_empty=CAPTION in optional),
        IMAGE_EMBEDDING: _embedding,
    }
    return {name: read[name](value) if name in read else value for name, value in raw.items()}


def _image(data: Any, max_pixels: int, decode: Callable[[Any, int], Any]) -> Any:
    try:
        return decode(data, max_pixels)
    except UndecodableImageError as error:
        raise undecodable(error) from error


def undecodable(error: UndecodableImageError) -> UnusableSampleError:
    """The same, of the sample."""
    return UnusableSampleError(IMAGE, f"cannot be decoded: {error}")


def _caption(data: bytes | str, may_be_empty: bool) -> str:
    try:
        caption = data if isinstance(data, str) else data.decode()
    except UnicodeDecodeError as error:
        raise UnusableSampleError(CAPTION, f"is not UTF-8: {error.reason} at byte {error.start}") from error
    if caption.strip():
        return caption
    if not may_be_empty:
        raise UnusableSampleError(CAPTION, "is empty")
    return ""


def _embedding(value: Any) -> Float32[Tensor, " width"]:
    array = np.asarray(value)
    if array.dtype.kind != "f" or array.ndim != 1:
        raise UnusableSampleError(IMAGE_EMBEDDING, f"is no row of floating-point numbers: {value!r:.80}")
    if not np.isfinite(array).all():
        raise UnusableSampleError(IMAGE_EMBEDDING, "is not finite")
    return torch.from_numpy(array.astype(np.float32))
