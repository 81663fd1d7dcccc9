"""A rank that takes memory, and says what each rank has."""

from __future__ import annotations

from pathlib import Path

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from maws_composer.registry import register_callback


@register_callback("hoard")
class Hoard(Callback):
    """Takes host memory before a step, and writes on it in each; logs `hoard/<rank>`, the GiB that a rank has then.

    Args:
        batch: steps done before.
        mebibytes: how much.
        rank: that takes it.
    """

    def __init__(self, batch: int, mebibytes: int, rank: int = 0) -> None:
        self.batch, self.mebibytes, self.rank = batch, mebibytes, rank
        self.taken = torch.empty(0)

    def batch_start(self, state: State, logger: Logger) -> None:
        if int(state.timestamp.batch) == self.batch and dist.get_global_rank() == self.rank:
            self.taken = torch.ones(self.mebibytes * 2**18)

    def batch_end(self, state: State, logger: Logger) -> None:
        self.taken.add_(1)  # the kernel may have taken the pages back
        had = dist.all_gather_object(_resident_kib())
        logger.log_metrics({f"hoard/{rank}": size / 2**20 for rank, size in enumerate(had)})


def _resident_kib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
