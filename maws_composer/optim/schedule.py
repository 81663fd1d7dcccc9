"""The learning rate as a function of samples seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from maws_composer.config.build import build_named
from maws_composer.config.durations import samples
from maws_composer.config.run import Run
from maws_composer.registry import register_schedule

NAME = "warmup_then_decay"
Decay = Literal["cosine", "linear"]


@register_schedule(NAME)
@dataclass(frozen=True)
class WarmupThenDecay:
    """Linear warm-up, then decay.

    Args:
        warmup: length of the warm-up as a share of `max_duration`.
        final_lr: learning rate at the end as a share of the peak.
        decay: from the peak to the end: half a cosine, or a straight line.
    """

    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    final_lr: Annotated[float, Field(ge=0, le=1)] = 0.0
    decay: Decay = "cosine"

    def __call__(self, sample: int, total: int) -> float:
        return warmup_then_decay(sample, total, self.warmup, self.final_lr, self.decay)


def warmup_then_decay(sample: int, total: int, warmup: float, final: float, decay: Decay = "cosine") -> float:
    """Share of the peak learning rate at `sample` of `total`: linear from 0, then down to `final`.

    Args:
        sample: samples seen before this step.
        total: samples of the whole run.
        warmup: share of the run that warms up.
        final: share of the peak at the end.
        decay: half a cosine (mae, util/lr_sched), or a straight line.
    """
    warm = warmup * total
    if sample < warm:
        return sample / warm
    progress = min((sample - warm) / max(total - warm, 1), 1.0)
    left = 0.5 * (1 + math.cos(math.pi * progress)) if decay == "cosine" else 1 - progress
    return final + (1 - final) * left


def build_schedule(optimizer: Optimizer, run: Run) -> LambdaLR:
    """A torch schedule, to be stepped once per batch.

    Composer's own schedulers read the time before the step moved it on, and so lag by one batch.
    """
    total = samples(run.max_duration)
    share: Callable[[int, int], float] = build_named("schedule", run.schedule, NAME, run)
    return LambdaLR(optimizer, lambda batch: share(batch * run.global_train_batch_size, total))
