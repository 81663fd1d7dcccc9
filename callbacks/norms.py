"""Norms of gradients and parameters, block by block."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from composer.core import Callback, Event, State
from composer.loggers import Logger
from composer.utils import create_interval_scheduler
from jaxtyping import Float
from torch import Tensor

from maws_composer.config.durations import StepInterval
from maws_composer.registry import register_callback


@register_callback("norms")
class Norms(Callback):
    """Logs `norm/gradient/<block>` and `norm/parameter/<block>`: Euclidean norms over what is trained of a block.

    A block is a transformer block, such as `encoder.blocks.3`; parameters outside of the blocks count for the part of
    the model that they belong to, such as `encoder`. Gradients are those that the optimizer saw, after clipping (the
    whole one before it is `grad_norm`), and parameters what it made of them.

    Each rank squares its own shards, and one reduction makes all norms.

    Args:
        every: how often.
    """

    def __init__(self, every: StepInterval = "100ba") -> None:
        self.is_due = create_interval_scheduler(every, include_end_of_training=False, checkpoint_events=False)

    def init(self, state: State, logger: Logger) -> None:
        of_blocks = block_of_each(state.model)
        trained = {name: each for name, each in state.model.named_parameters() if each.requires_grad}
        self.parameters = list(trained.values())  # DTensors now; FSDP shows others after an evaluation
        self.blocks = list(dict.fromkeys(of_blocks[name] for name in trained))
        numbers = [self.blocks.index(of_blocks[name]) for name in trained]
        self.numbers = state.device.tensor_to_device(torch.tensor(numbers))
        mesh = self.parameters[0].device_mesh
        self.replicas = mesh.size() // mesh.size(mesh.ndim - 1)

    @torch.no_grad()
    def batch_end(self, state: State, logger: Logger) -> None:
        if not self.is_due(state, Event.BATCH_END):
            return
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in self.parameters]
        squares = torch.stack([self._own_squares(gradients), self._own_squares(self.parameters)])
        dist.all_reduce(squares)
        for kind, norms in zip(("gradient", "parameter"), (squares / self.replicas).sqrt().tolist(), strict=True):
            named = zip(self.blocks, norms, strict=True)
            logger.log_metrics({f"norm/{kind}/{block}": norm for block, norm in named})

    def _own_squares(self, tensors: list[Any]) -> Float[Tensor, " blocks"]:
        """Sums over this rank's shards of DTensors."""
        squares = torch.stack(torch._foreach_norm([tensor.to_local() for tensor in tensors])).square()
        return squares.new_zeros(len(self.blocks)).index_add_(0, self.numbers, squares)


def block_of_each(stage: Any) -> dict[str, str]:
    """Parameter -> block, both by name; the block's without the name of the stage's model, which says nothing."""
    repeated = set(stage.blocks())
    prefixes = [f"{name}." for name, module in stage.named_modules() if module in repeated]
    names = [name for name, _ in stage.named_parameters()]
    found = {name: next((prefix for prefix in prefixes if name.startswith(prefix)), None) for name in names}
    return {name: prefix.split(".", 1)[1][:-1] if prefix else name.split(".")[1] for name, prefix in found.items()}
