"""The learning rate as a function of samples seen."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from maws_composer.config.durations import samples
from maws_composer.config.run import Run
from maws_composer.optim.settings import Decay


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
    total, schedule = samples(run.max_duration), run.schedule
    return LambdaLR(
        optimizer,
        lambda batch: warmup_then_decay(
            batch * run.global_train_batch_size, total, schedule.warmup, schedule.final_lr, schedule.decay
        ),
    )
