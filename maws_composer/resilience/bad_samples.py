"""Counting samples that had to be replaced: images that cannot be decoded, captions that are empty."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from composer.core import Callback, State
from composer.loggers import Logger

from maws_composer.config.problems import ForeseenError


class TooManyBadSamplesError(ForeseenError):
    """More of the samples than the configuration allows cannot be used."""


class BadSamples(Callback):
    """Counts replaced samples over all ranks, keeps the count in the checkpoint, and stops the run when they are many.

    The dataset has replaced each by its neighbor and named it in the log; this is the other half of the bargain.

    Args:
        max_share: of all samples so far; looked at once a thousand samples have been seen.
        group: of the main threads' CPUs: two numbers a step are not worth waiting for the GPU.
    """

    def __init__(self, max_share: float, group: dist.ProcessGroup) -> None:
        self.max_share = max_share
        self._group = group
        self.replaced = 0
        self.seen = 0

    def batch_start(self, state: State, logger: Logger) -> None:
        counts = torch.tensor([int(state.batch["replaced"].sum()), len(state.batch["replaced"])])
        dist.all_reduce(counts, group=self._group)
        replaced, seen = counts.tolist()
        self.replaced += replaced
        self.seen += seen
        if replaced:
            logger.log_metrics({"data/replaced_samples": self.replaced})
        if self.seen >= 1000 and self.replaced > self.max_share * self.seen:
            raise TooManyBadSamplesError(
                f"{self.replaced} of {self.seen} samples could not be used, data.train.max_bad_share is "
                f"{self.max_share:g}; the log above names them. Mend them, or raise it: the same command then goes on"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"replaced": self.replaced, "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.replaced, self.seen = state["replaced"], state["seen"]
