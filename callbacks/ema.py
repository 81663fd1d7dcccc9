"""An exponential moving average of the weights."""

from __future__ import annotations

import logging
from typing import Any

import torch
from composer.core import Callback, State
from composer.loggers import Logger

from maws_composer.config.durations import Samples, samples
from maws_composer.registry import register_callback

log = logging.getLogger("maws_composer.callbacks.ema")


@register_callback("ema")
class EMA(Callback):
    """Averages the trained weights after each step, each step counting half as much as one `half_life` later.

    Training is not touched by it. The average is sharded as the weights are (4 bytes more per parameter, over the GPUs
    of a shard), lies in every checkpoint, and goes on from there on any number of processes. Whoever reads weights
    takes it by the address `<run>#ema`:

        maws-composer export runs/mae#ema --to timm exported/mae-ema
        python evaluate.py yamls/eval/imagenet.yaml weights=runs/mae#ema

    A run that gets this callback later averages from there on. Composer's own EMA cannot resume when sharded.

    Args:
        half_life: in samples, so that it means the same with any batch size: "10_000_000sp".
    """

    bytes_per_parameter = 4  # for the plan: memory of the GPUs of a shard, and room of a checkpoint

    def __init__(self, half_life: Samples) -> None:
        self.half_life = samples(half_life)
        self.was_loaded = False

    def init(self, state: State, logger: Logger) -> None:
        # DTensors now; FSDP shows others after an evaluation
        self.parameters = {name: each for name, each in state.model.named_parameters() if each.requires_grad}
        self.weights = {name: each.detach().clone() for name, each in self.parameters.items()}

    @torch.no_grad()
    def after_load(self, state: State, logger: Logger) -> None:
        if not self.was_loaded:
            for name, weight in self.weights.items():
                weight.copy_(self.parameters[name])
            if state.timestamp.batch > 0:
                log.info("no average of these weights was saved; it begins at batch %d", int(state.timestamp.batch))

    @torch.no_grad()
    def batch_end(self, state: State, logger: Logger) -> None:
        assert state.previous_timestamp is not None
        in_step = int(state.timestamp.sample - state.previous_timestamp.sample)
        averages, weights = ([each.to_local() for each in of.values()] for of in (self.weights, self.parameters))
        torch._foreach_lerp_(averages, weights, 1 - 0.5 ** (in_step / self.half_life))

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, weight in state["weights"].items():
            self.weights[name].copy_(weight)
        self.was_loaded = True
