"""How fast training is, and whether the loader or the GPU is its limit."""

from __future__ import annotations

import time
from collections import deque
from typing import NamedTuple

import torch
from composer.core import Callback, Event, State
from composer.loggers import Logger
from composer.utils import create_interval_scheduler, dist
from torch import Tensor

from maws_composer.config.durations import StepInterval
from maws_composer.config.run import Run
from maws_composer.planning.gpus import peak_flops
from maws_composer.planning.plan import workload_of
from maws_composer.registry import register_callback


class Mark:
    """A moment: on a GPU the one at which it gets to this place of its stream, else by the host's clock."""

    def __init__(self) -> None:
        self.at = time.perf_counter()
        self.event = torch.cuda.Event(enable_timing=True) if torch.cuda.is_available() else None
        if self.event is not None:
            self.event.record()

    def is_past(self) -> bool:
        return self.event is None or self.event.query()

    def seconds_since(self, earlier: Mark) -> float:
        if self.event is None or earlier.event is None:
            return self.at - earlier.at
        return earlier.event.elapsed_time(self.event) / 1000


class Step(NamedTuple):
    """Marks of one step, and the samples of all ranks in it."""

    asks: Mark
    has_data: Mark
    ends: Mark
    samples: int


@register_callback("throughput")
class Throughput(Callback):
    """Logs, of the steps since it last did:

    `throughput/samples_per_sec`: of all ranks together.
    `throughput/flops_per_sec`: likewise, without what activation checkpointing computes again.
    `throughput/mfu`: model FLOPs utilization, 0 to 1 of the nominal dense peak; not for devices with an unknown one.
    `throughput/input_wait`: share of the time, 0 to 1, in which the device had nothing to do because its batch was not
    there; of the rank that waits longest. Above a few per cent the loader is the limit.

    A step begins when its batch is asked for and ends after the optimizer, so that evaluations, saving, callbacks that
    are named after this one, and the pause between two starts do not count; nor does the first step of a start, which
    compiles and fills the loader. On GPUs,
    times are of events in the stream, which are read when they are past: a figure is logged one step late, and nobody
    waits. Composer's SpeedMonitor goes by the host's clock, sums FLOPs over ranks in every step, and knows neither
    input wait nor the peak of every precision.

    Args:
        every: how often.
    """

    def __init__(self, every: StepInterval = "10ba", *, run: Run) -> None:
        self.is_due = create_interval_scheduler(every, include_end_of_training=False, checkpoint_events=False)
        self.flops = workload_of(run).training_flops
        peak = peak_flops(torch.cuda.get_device_name(), run.precision) if torch.cuda.is_available() else None
        self.peak = peak * dist.get_world_size() if peak else None

    def fit_start(self, state: State, logger: Logger) -> None:
        self.steps: deque[Step] = deque()
        self.summed: Tensor | None = None
        self.is_first = True

    def before_dataloader(self, state: State, logger: Logger) -> None:
        self.asks = Mark()

    def after_dataloader(self, state: State, logger: Logger) -> None:
        self.has_data = Mark()

    def batch_end(self, state: State, logger: Logger) -> None:
        self._log_sums(logger)
        if not self.is_first:
            assert state.previous_timestamp is not None
            samples = int(state.timestamp.sample - state.previous_timestamp.sample)
            self.steps.append(Step(self.asks, self.has_data, Mark(), samples))
        self.is_first = False
        if self.is_due(state, Event.BATCH_END):
            self._sum_past_steps(state)

    def fit_end(self, state: State, logger: Logger) -> None:
        self._log_sums(logger)

    def _sum_past_steps(self, state: State) -> None:
        """Begin to compare the ranks; what comes of it is on the device by the next step."""
        past = []
        while self.steps and self.steps[0].ends.is_past():
            past.append(self.steps.popleft())
        # A rank may see one step more end than another, so that each brings shares of its own time.
        seconds = sum(step.ends.seconds_since(step.asks) for step in past)
        waited = sum(step.has_data.seconds_since(step.asks) for step in past)
        samples = sum(step.samples for step in past)
        own = [-samples / seconds, waited / seconds] if past else [0.0, 0.0]
        self.summed = state.device.tensor_to_device(torch.tensor(own, dtype=torch.float64))
        dist.all_reduce(self.summed, "MAX")

    def _log_sums(self, logger: Logger) -> None:
        if self.summed is None:
            return
        minus_pace, input_wait = self.summed.tolist()  # without waiting: Composer has read the step's loss
        self.summed = None
        if minus_pace == 0:  # on some rank no step had ended
            return
        flops = -minus_pace * self.flops
        figures = {"samples_per_sec": -minus_pace, "flops_per_sec": flops, "input_wait": input_wait}
        if self.peak:
            figures["mfu"] = flops / self.peak
        logger.log_metrics({f"throughput/{name}": figure for name, figure in figures.items()})
