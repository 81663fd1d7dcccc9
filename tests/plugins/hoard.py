"""A rank that takes memory, and keeps it."""

from __future__ import annotations

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from maws_composer.registry import register_callback


@register_callback("hoard")
class Hoard(Callback):
    """Takes host memory before a step.

    Args:
        batch: steps done before.
        mebibytes: how much.
        rank: that takes it.
    """

    def __init__(self, batch: int, mebibytes: int, rank: int = 0) -> None:
        self.batch, self.mebibytes, self.rank = batch, mebibytes, rank

    def batch_start(self, state: State, logger: Logger) -> None:
        if int(state.timestamp.batch) == self.batch and dist.get_global_rank() == self.rank:
            self.taken = torch.ones(self.mebibytes * 2**18)
