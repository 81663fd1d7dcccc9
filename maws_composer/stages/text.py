"""The text tower that a run names: a user's own, or one of Hugging Face's."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from maws_composer.data.own_text import is_own, own_tower
from maws_composer.models.text_tower import TextSettings, build_text_tower, text_size
from maws_composer.planning.blocks import Blocks
from maws_composer.planning.parameters import text_parameters
from maws_composer.planning.workload import TextWorkload

_HEAD_DIM = 64  # of a tower whose heads nobody knows


def build_text(settings: TextSettings) -> nn.Module:
    """The tower on the current device.

    Raises:
        ValueError: see `own_tower` and `build_text_tower`; or it has no weights to begin with, nor dropout of ours.
    """
    tower: nn.Module = _own(settings) if is_own(settings) else build_text_tower(settings)
    return tower


def text_workload(settings: TextSettings) -> TextWorkload:
    """What the tower costs; a user's own is counted on the meta device. Raises ValueError: see `build_text`."""
    tokens = settings.context_length
    if not is_own(settings):
        size = text_size(settings)
        blocks = Blocks(size.depth, size.width, size.head_dim, tokens, post_norm=True)
        return TextWorkload(text_parameters(size), blocks)
    with torch.device("meta"):
        tower = _own(settings)
    blocks = tower.blocks()
    inside = sum(parameter.numel() for block in blocks for parameter in block.parameters()) // max(len(blocks), 1)
    total = sum(parameter.numel() for parameter in tower.parameters())
    return TextWorkload(total, Blocks(len(blocks), tower.width, _HEAD_DIM, tokens, own_parameters=inside))


def _own(settings: TextSettings) -> Any:
    if settings.pretrained:
        raise ValueError(f"text.pretrained: {settings.name} is drawn from the seed; set it to false")
    if settings.dropout:
        raise ValueError(f"text.dropout: is of Hugging Face's towers; {settings.name} may have an argument of its own")
    return own_tower(settings)
