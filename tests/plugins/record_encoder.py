"""Writes down the encoder with which training begins."""

from __future__ import annotations

from pathlib import Path

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist
from torch.distributed.tensor import DTensor

from maws_composer.registry import register_callback


@register_callback("record_encoder")
class RecordEncoder(Callback):
    """One file of torch.save, written by rank 0.

    Args:
        file: where it goes.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def fit_start(self, state: State, logger: Logger) -> None:
        prefix = state.model.encoder_prefix
        whole = {
            name.removeprefix(prefix): tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.detach()
            for name, tensor in state.model.named_parameters()
            if name.startswith(prefix)
        }
        if dist.get_global_rank() == 0:
            torch.save(whole, self.file)
