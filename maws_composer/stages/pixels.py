"""From the bytes that travel to what a model sees, on the device."""

from __future__ import annotations

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
    mean = torch.tensor(IMAGENET_MEAN, device=device).view(1, 3, 1, 1)
    std = torch.tensor(IMAGENET_STD, device=device).view(1, 3, 1, 1)
    return mean, std
