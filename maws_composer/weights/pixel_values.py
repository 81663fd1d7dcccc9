"""Weights for images that are normalized otherwise than ours: the difference goes into the patch embedding, exactly.

A patch embedding is linear, so that W (x - m) / s + b of their mean m and deviation s is W' (x - m') / s' + b' of ours.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from maws_composer.stages.pixels import IMAGENET_MEAN, IMAGENET_STD
from maws_composer.weights.files import Weights
from maws_composer.weights.layouts import FIRST
from maws_composer.weights.translation import Recipe, translated

log = logging.getLogger(__name__)

_WEIGHT = f"encoder.{FIRST}"
_BIAS = _WEIGHT.replace("weight", "bias")


def for_our_pixels(model: Weights) -> Weights:
    """The model, for images normalized by ImageNet's mean and deviation, if the configuration beside it has others."""
    theirs = _normalization(model.config)
    if theirs is None or not {_WEIGHT, _BIAS} <= model.shapes.keys():
        return model
    mean, std = theirs
    log.info("%s has pixels of mean %s, deviation %s: its patch embedding is adapted to ours", model.address, mean, std)
    scale = [ours / their for ours, their in zip(IMAGENET_STD, std, strict=True)]
    shift = [(ours - their) / deviation for ours, their, deviation in zip(IMAGENET_MEAN, mean, std, strict=True)]
    return translated(
        model,
        {
            _WEIGHT: Recipe((_WEIGHT,), partial(_scaled, scale)),
            _BIAS: Recipe((_WEIGHT, _BIAS), partial(_shifted, shift)),
        },
    )


def _normalization(config: Mapping[str, Any]) -> tuple[list[float], list[float]] | None:
    """Mean and deviation that timm's config.json or Hugging Face's preprocessor_config.json asks for; None if ours."""
    timm = config.get("pretrained_cfg", {})
    mean, std = timm.get("mean", config.get("image_mean")), timm.get("std", config.get("image_std"))
    if not mean or not std or (tuple(mean), tuple(std)) == (IMAGENET_MEAN, IMAGENET_STD):
        return None
    return list(mean), list(std)


def _scaled(scale: Sequence[float], weight: Tensor) -> Tensor:
    return weight * _per_channel(scale, weight)


def _shifted(shift: Sequence[float], weight: Tensor, bias: Tensor) -> Tensor:
    return bias + (weight * _per_channel(shift, weight)).sum((1, 2, 3))


def _per_channel(values: Sequence[float], weight: Tensor) -> Tensor:
    return torch.tensor(values, dtype=weight.dtype, device=weight.device).view(1, 3, 1, 1)
