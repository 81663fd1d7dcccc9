"""A batch that spoils the step, whenever it is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist
from torch.distributed.tensor import DTensor

from maws_composer.registry import register_callback


@register_callback("spoil_step")
class SpoilStep(Callback):
    """Multiplies the loss of a batch on one rank, or one of its gradients there, by a factor; or leaves out its update.

    Args:
        batches: as metrics.jsonl counts.
        what: `loss`; `gradient`: of the named parameter; `update`: no parameter gets a gradient, on any rank.
        factor: 1e300 makes infinity of any number in fp32.
        parameter: part of the name.
        rank: whose, if there are so many.
    """

    def __init__(
        self,
        batches: list[int],
        what: Literal["loss", "gradient", "update"] = "loss",
        factor: float = 1000.0,
        parameter: str = "",
        rank: int = 1,
    ) -> None:
        self.batches, self.what, self.factor, self.parameter = set(batches), what, factor, parameter
        self.is_here = dist.get_global_rank() == min(rank, dist.get_world_size() - 1)

    def after_loss(self, state: State, logger: Logger) -> None:
        if self.what == "loss" and self.is_here and self._comes(state):
            state.loss = state.loss * self.factor

    def after_backward(self, state: State, logger: Logger) -> None:
        if self.what == "gradient" and self.is_here and self._comes(state):
            for gradient in self._gradients(state):
                gradient.view(-1)[:1] *= self.factor

    def after_train_batch(self, state: State, logger: Logger) -> None:
        if self.what == "update" and self._comes(state):
            for parameter in state.model.parameters():
                parameter.grad = None  # AdamW passes such a parameter over

    def _comes(self, state: State) -> bool:
        return int(state.timestamp.batch) + 1 in self.batches

    def _gradients(self, state: State) -> Iterator[torch.Tensor]:
        for name, parameter in state.model.named_parameters():
            if self.parameter in name and parameter.grad is not None:
                assert isinstance(parameter.grad, DTensor)
                yield parameter.grad.to_local()
