"""Settings of the optimizer and of its schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

Beta = Annotated[float, Field(ge=0, lt=1)]
Decay = Literal["cosine", "linear"]


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """AdamW; the learning rate is `base_lr * global_train_batch_size / 256`.

    Args:
        base_lr: peak learning rate per 256 samples of a batch.
        betas: decay of the first and the second moment.
        eps: added to the root of the second moment.
        weight_decay: of all but biases and norms.
    """

    base_lr: Annotated[float, Field(gt=0)] = 1.5e-4
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.05


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Linear warm-up, then decay.

    Args:
        warmup: length of the warm-up as a share of `max_duration`.
        final_lr: learning rate at the end as a share of the peak.
        decay: from the peak to the end: half a cosine, or a straight line.
    """

    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    final_lr: Annotated[float, Field(ge=0, le=1)] = 0.0
    decay: Decay = "cosine"
