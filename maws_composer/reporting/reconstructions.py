"""Original, what the encoder saw, and what the decoder made of it, side by side."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

TITLES = ("original", "masked", "reconstruction")
_TILE = 144  # pixels: smaller pictures are enlarged
_GAP = 6
_HEAD = 26
_GROUPS = 2  # rows of three beside each other
_PAPER, _INK = (255, 255, 255), (60, 60, 60)


def draw_reconstructions(
    original: UInt8[np.ndarray, "n h w 3"],
    masked: UInt8[np.ndarray, "n h w 3"],
    reconstruction: UInt8[np.ndarray, "n h w 3"],
) -> UInt8[np.ndarray, "height width 3"]:
    """One picture of all of them: a row of three for each image, in two groups beside each other.

    Raises:
        ValueError: the arrays are not of one shape, not uint8 or empty.
    """
    columns = (original, masked, reconstruction)
    if (
        len({column.shape for column in columns}) != 1
        or original.ndim != 4
        or original.shape[3] != 3
        or not original.size
    ):
        raise ValueError(f"expected three arrays of one shape (n, h, w, 3), got {[column.shape for column in columns]}")
    if any(column.dtype != np.uint8 for column in columns):
        raise ValueError(f"expected uint8, got {[str(column.dtype) for column in columns]}")
    number, height, width, _ = original.shape
    scale = max(1, round(_TILE / max(height, width)))
    rows = -(-number // _GROUPS)
    across, down = width * scale + _GAP, height * scale + _GAP
    groups = -(-number // rows)
    group_width = 3 * across + 2 * _GAP
    sheet = Image.new("RGB", (groups * group_width - _GAP, _HEAD + rows * down), _PAPER)
    for group in range(groups):
        _head(sheet, group * group_width + _GAP, across)
    for index in range(number):
        left, top = (index // rows) * group_width + _GAP, _HEAD + (index % rows) * down
        for column, pictures in enumerate(columns):
            tile = Image.fromarray(pictures[index]).resize((width * scale, height * scale), Image.Resampling.NEAREST)
            sheet.paste(tile, (left + column * across, top))
    return np.asarray(sheet)


def _head(sheet: Image.Image, left: int, across: int) -> None:
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for column, title in enumerate(TITLES):
        middle = left + column * across + (across - _GAP) / 2
        pen.text((middle, _HEAD / 2), title, fill=_INK, font=font, anchor="mm")
