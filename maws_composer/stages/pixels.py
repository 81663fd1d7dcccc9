"""From the bytes that travel to what a model sees, on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from maws_composer.models.pixels import IMAGENET_MEAN, IMAGENET_STD


def normalize(images: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
    """Subtract ImageNet's mean color and divide by its deviation, in fp32, on the images' device."""
    mean, std = _moments(images.device)
    return (images.float() / 255 - mean) / std


def denormalize(images: Float[Tensor, "batch 3 height width"]) -> UInt8[Tensor, "batch 3 height width"]:
    """The inverse of `normalize`, clipped to what a picture can show."""
    mean, std = _moments(images.device)
    return ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def _moments(device: torch.device) -> tuple[Tensor, Tensor]:
    return _by_channel(IMAGENET_MEAN, device), _by_channel(IMAGENET_STD, device)


def _by_channel(values: Sequence[float], device: torch.device) -> Float[Tensor, "3 1 1"]:
    # filled there: copied, the CPU would wait for all that a GPU still has to do
    return torch.stack([torch.full((1, 1), value, device=device) for value in values])
