"""The learning rate as a function of samples seen."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from maws_composer.config.durations import samples
from maws_composer.config.run import Run


def warmup_then_cosine(sample: int, total: int, warmup: float, final: float) -> float:
    """Share of the peak learning rate at `sample` of `total`: linear from 0, then half a cosine (mae, util/lr_sched).

    Args:
        sample: samples seen before this step.
        total: samples of the whole run.
        warmup: share of the run that warms up.
        final: share of the peak at the end.
    """
    warm = warmup * total
    if sample < warm:
        return sample / warm
    progress = min((sample - warm) / max(total - warm, 1), 1.0)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def build_schedule(optimizer: Optimizer, run: Run) -> LambdaLR:
    """A torch schedule, to be stepped once per batch.

    Composer's own schedulers read the time before the step moved it on, and so lag by one batch.
    """
    total, schedule = samples(run.max_duration), run.schedule
    return LambdaLR(
        optimizer,
        lambda batch: warmup_then_cosine(
            batch * run.global_train_batch_size, total, schedule.warmup, schedule.final_lr
        ),
    )
