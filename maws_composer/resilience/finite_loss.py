"""A run whose loss is no number any more has nothing to gain from further steps, and good checkpoints to lose."""

from __future__ import annotations

import math

from composer.core import Callback, State
from composer.loggers import Logger


class DivergedError(RuntimeError):
    """The loss is NaN or infinite."""


class FiniteLoss(Callback):
    """Stops the run at the first loss that is NaN or infinite, before a checkpoint of it can be saved.

    The loss is the mean over all ranks, which Composer has on the CPU by then: looking at it costs nothing, and every
    rank stops at the same step.
    """

    def batch_end(self, state: State, logger: Logger) -> None:
        loss = state.total_loss_dict["loss/train/total"]
        if not math.isfinite(loss):
            raise DivergedError(
                f"the loss is {loss} at batch {int(state.timestamp.batch)}; the checkpoints before it are kept. Start "
                "again to go on from the newest, with a lower optimizer.base_lr, a gradient_clip or a higher precision "
                "(and allow_changed_config=true)"
            )
