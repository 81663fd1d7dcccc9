"""Positions for another grid, patch embeddings for another size of patches: only where somebody asks for it.

Positions by bicubic interpolation, corners not aligned, as the MAE authors do; the class token keeps its own. Patch
embeddings by the pseudo-inverse of a bicubic resizing (Beyer et al. 2022, FlexiViT), which keeps the inner product of
a patch and its filter where the patch is enlarged with it. Both are timm's.
"""

from __future__ import annotations

import math
from functools import partial

from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor

from maws_composer.weights.layouts import FIRST
from maws_composer.weights.shapes import Shapes, show
from maws_composer.weights.translation import AnyWeights, Recipe, translated

_POSITIONS = ("pos_embed", "decoder_pos_embed")


def resized(weights: AnyWeights, wanted: Shapes) -> tuple[AnyWeights, list[str]]:
    """Weights whose positions and patch embedding have the wanted shapes, if only the grid or the patches differ.

    Returns:
        The weights, and what is resized, for the log: "pos_embed 1 x 197 x 768 -> 1 x 1025 x 768".
    """
    recipes, told = {}, []
    for name in (name for name in weights.shapes if name in wanted and weights.shapes[name] != wanted[name]):
        short, old, new = name.removeprefix("encoder."), weights.shapes[name], wanted[name]
        if short in _POSITIONS and old[2] == new[2]:
            recipes[name] = Recipe((name,), partial(_positions, math.isqrt(new[1] - 1)))
        elif short == FIRST and old[:2] == new[:2]:
            recipes[name] = Recipe((name,), partial(_patch_embedding, new[2]))
        else:
            continue
        told.append(f"{short} {show(weights.shapes, name)} -> {show(wanted, name)}")
    return translated(weights, recipes), told


def _positions(side: int, positions: Tensor) -> Tensor:
    return resample_abs_pos_embed(positions, [side, side], antialias=False)


def _patch_embedding(patch_size: int, weight: Tensor) -> Tensor:
    return resample_patch_embed(weight, [patch_size, patch_size])
