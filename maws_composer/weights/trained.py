"""The encoder of a training run, and its shape, whatever the run's stage is."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from maws_composer.models.sizes import ViTSize
from maws_composer.registry import lookup
from maws_composer.weights.sources import Encoder, SourceError, open_encoder


class Trained(NamedTuple):
    """What a run left behind.

    Attributes:
        encoder: its tensors, each of them read when asked for.
        size: its shape, which says how many heads it has.
        image_size: side of its images in pixels.
    """

    encoder: Encoder
    size: ViTSize
    image_size: int


def trained_by(checkpoint: str, config: dict[str, Any]) -> Trained:
    """The encoder of a checkpoint that a run of this configuration saved.

    Raises:
        SourceError: there is no encoder in it, or its configuration has no size.
        ConfigError: its size is not registered.
    """
    encoder, name = open_encoder(checkpoint), config["model"].get("size")
    if name is None:
        raise SourceError(f"{checkpoint}/config.yaml has no model.size, which would say how many heads there are")
    size = lookup("size", name).builder
    return Trained(encoder, size, math.isqrt(encoder.shapes["pos_embed"][1] - 1) * size.patch_size)
