"""Settings that every optimizer and every schedule has; their own stand beside these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """An optimizer; the learning rate is `base_lr * global_train_batch_size / 256`.

    Args:
        name: as it is registered. Null: adamw.
        base_lr: peak learning rate per 256 samples of a batch.
        weight_decay: of all but biases and norms.
    """

    name: str | None = None
    base_lr: Annotated[float, Field(gt=0)] = 1.5e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.05


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """A schedule of the learning rate.

    Args:
        name: as it is registered. Null: warmup_then_decay.
    """

    name: str | None = None
