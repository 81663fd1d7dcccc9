"""Pictures of what an encoder has learned: its filters, its positions, what it attends to."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, normalize

Tiles = UInt8[np.ndarray, "n h w 3"]

_GAP = 2  # pixels between tiles
_PAPER = 255
_HEAT = 0.55  # of the colors of attention, over the image


def principal_filters(weight: Float[Tensor, "width 3 patch patch"], count: int) -> Tiles:
    """The first principal components of a patch embedding's filters (Dosovitskiy et al. 2021, figure 7).

    Each is stretched, around gray, so that the largest value is white; the sign of a component means nothing.
    """
    flat = weight.flatten(1).float()
    _, _, components = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    chosen = components[:count]
    shown = 0.5 + 0.5 * chosen / chosen.gather(1, chosen.abs().argmax(1, keepdim=True))
    return _to_uint8(shown.view(-1, *weight.shape[1:]).permute(0, 2, 3, 1))


def position_similarities(positions: Float[Tensor, "patches width"]) -> Tiles:
    """Cosine similarity of each position with all others, from the smallest (dark) to 1: a tile each, row by row."""
    side = math.isqrt(len(positions))
    unit = normalize(positions.float(), dim=1)
    similarity = (unit @ unit.T).view(-1, side, side)
    least = similarity.min()
    return _colored(((similarity - least) / (1 - least).clamp(min=1e-6)).clamp(0, 1), "viridis")


def attention_over(images: UInt8[Tensor, "n 3 h w"], attention: Float[Tensor, "n patches"]) -> Tiles:
    """Images and, beside each in gray, the attention that each patch gets, from none (blue) to most (yellow)."""
    side = math.isqrt(attention.shape[1])
    share = (attention / attention.amax(1, keepdim=True)).view(-1, 1, side, side)
    whole = interpolate(share.float(), images.shape[2:], mode="bilinear", align_corners=False)[:, 0].clamp(0, 1)
    pixels = images.permute(0, 2, 3, 1).numpy()
    gray = pixels.mean(-1, keepdims=True)
    mixed = (_HEAT * _colored(whole, "plasma") + (1 - _HEAT) * gray).round().astype(np.uint8)
    return np.stack([pixels, mixed], axis=1).reshape(-1, *pixels.shape[1:])


def draw_tiles(tiles: Tiles, columns: int, tile: int) -> UInt8[np.ndarray, "height width 3"]:
    """One picture of all tiles, row by row, enlarged to at least `tile` pixels where they are smaller."""
    number, height, width, _ = tiles.shape
    scale = max(1, -(-tile // max(height, width)))
    across, down = width * scale + _GAP, height * scale + _GAP
    rows = -(-number // columns)
    sheet = np.full((rows * down - _GAP, min(columns, number) * across - _GAP, 3), _PAPER, np.uint8)
    for index, pixels in enumerate(tiles):
        enlarged = Image.fromarray(pixels).resize((width * scale, height * scale), Image.Resampling.NEAREST)
        top, left = index // columns * down, index % columns * across
        sheet[top : top + height * scale, left : left + width * scale] = np.asarray(enlarged)
    return sheet


def _colored(values: Float[Tensor, "n h w"], colors: str) -> Tiles:
    """From 0 to 1."""
    return (colormaps[colors](values.numpy())[..., :3] * 255).round().astype(np.uint8)


def _to_uint8(values: Float[Tensor, "n h w 3"]) -> Tiles:
    return (values * 255).round().to(torch.uint8).numpy()
