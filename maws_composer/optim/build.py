"""From a run's settings to an optimizer that can be told to leave a step out."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from types import MethodType

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from maws_composer.config.build import build_named
from maws_composer.config.run import Run
from maws_composer.optim import adamw as default
from maws_composer.optim.groups import parameter_groups


def build_optimizer(stage: nn.Module, run: Run) -> Optimizer:
    """The optimizer that the run names, over the trainable parameters. It can be told to leave a step out.

    Call it after sharding: the groups then hold the shards, and DTensors know their full shape, which is what tells a
    bias from a matrix.

    Where `found_inf`, a tensor on the device, is 1, a step leaves weights and state as they are. The fused kernels of
    torch see to that, and nobody on the CPU has to know before; in front of others, the CPU waits for the tensor.
    """
    optimizer: Optimizer = build_named("optimizer", run.optimizer, default.NAME, run, parameter_groups(stage, run))
    if not getattr(optimizer, "_step_supports_amp_scaling", False):  # as torch's GradScaler asks
        _leave_out_when_told(optimizer)
    return optimizer


def _leave_out_when_told(optimizer: Optimizer) -> None:
    step = optimizer.step

    @wraps(step)
    def step_unless_told(self: Optimizer, closure: Callable[[], float] | None = None) -> float | None:
        # Composer's closure is forward and backward: the step is judged at its end.
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        if found_inf is None:
            step()
        elif not bool(found_inf):
            self.found_inf = None  # type: ignore[attr-defined]  # torch's own refuse it where they are not fused
            try:
                step()
            finally:
                self.found_inf = found_inf  # type: ignore[attr-defined]
        return loss

    # bound, as torch's schedules want it
    optimizer.step = MethodType(step_unless_told, optimizer)  # type: ignore[method-assign]
