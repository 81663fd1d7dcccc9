"""How far a run is, while it runs: a bar in a terminal, a line of the log every now and then elsewhere.

Both say the same. Nothing of it is kept in checkpoints: a resumed run's bar begins where the run goes on, and times are
reckoned from the speed of this start alone, evaluations and saving included.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

from composer.core import State
from composer.loggers import Logger, LoggerDestination
from composer.utils import dist
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from maws_composer.config.durations import Duration

log = logging.getLogger(__name__)

_LOSS = "loss/train/total"
_SPEED = "throughput/samples_per_sec"
_LONGEST = timedelta(days=9999)


class ProgressBar(LoggerDestination):
    """Samples, loss, speed, MFU, waiting for data, and when the next save and the end are due. On rank 0.

    Speed is what a callback logs as `throughput/samples_per_sec`; without one, the mean of this start.

    Args:
        every: seconds between two lines, where there is no terminal.
        save_interval: of checkpoints, in batches or samples.
        global_batch_size: samples of a batch.
        unit: what a sample is called.
        terminal: whether standard error is one; None: look.
    """

    def __init__(
        self, every: float, save_interval: Duration, global_batch_size: int, unit: str, terminal: bool | None = None
    ) -> None:
        amount, per_unit = save_interval.amount, {"ba": global_batch_size, "sp": 1}[save_interval.unit]
        self._every = every
        self._save_every = amount * per_unit
        self._unit = unit
        self._in_terminal = _has_terminal() if terminal is None else terminal
        self._logged: dict[str, Any] = {}  # numbers; what is a tensor is read when it is shown
        self._begun: tuple[float, int] | None = None  # time and samples at the end of this start's first step
        self._last_line = -math.inf
        self._bar: tqdm | None = None
        self._eval_bar: tqdm | None = None
        self._logs_above_bar = ExitStack()

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        if _is_shown():
            self._logged.update({key: value for key, value in metrics.items() if _is_number(value)})

    def after_load(self, state: State, logger: Logger) -> None:
        self._logged, self._begun = {}, None  # the run may have gone back

    def fit_start(self, state: State, logger: Logger) -> None:
        self._close()  # after a rewind training starts again
        if self._in_terminal and _is_shown():
            self._logs_above_bar.enter_context(logging_redirect_tqdm())
            self._bar = tqdm(
                total=_length(state), initial=int(state.timestamp.sample), position=0, dynamic_ncols=True,
                bar_format="{percentage:3.0f} %|{bar:12}| {desc}",
            )  # fmt: skip

    def batch_end(self, state: State, logger: Logger) -> None:
        if not _is_shown():
            return
        samples = int(state.timestamp.sample)
        if self._begun is None:
            self._begun = (time.monotonic(), samples)
        if self._bar is not None:
            self._bar.set_description_str(self.describe(samples, _length(state)), refresh=False)
            self._bar.update(samples - self._bar.n)
        elif samples >= _length(state) or self._line_is_due():
            log.info("%s", self.describe(samples, _length(state)))

    def eval_start(self, state: State, logger: Logger) -> None:
        if self._in_terminal and _is_shown():
            total = None if state.dataloader_len is None else int(state.dataloader_len)
            self._eval_bar = tqdm(
                desc=f"evaluating {state.dataloader_label}", total=total, unit="batch", position=1, leave=False,
                dynamic_ncols=True,
            )  # fmt: skip

    def eval_batch_end(self, state: State, logger: Logger) -> None:
        done = int(state.eval_timestamp.batch)
        if self._eval_bar is not None:
            self._eval_bar.update(done - self._eval_bar.n)
        elif _is_shown() and self._line_is_due():
            of = "" if state.dataloader_len is None else f" of {int(state.dataloader_len):,}"
            log.info("evaluating %s: %s%s batches", state.dataloader_label, f"{done:,}", of)

    def eval_end(self, state: State, logger: Logger) -> None:
        if self._eval_bar is not None:
            self._eval_bar.close()
            self._eval_bar = None
        begin = f"metrics/{state.dataloader_label}/"
        figures = {key.removeprefix(begin): value for key, value in self._logged.items() if key.startswith(begin)}
        if figures:
            said = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            log.info("%s at batch %s: %s", state.dataloader_label, f"{int(state.timestamp.batch):,}", said)

    def close(self, state: State, logger: Logger) -> None:
        self._close()

    def _close(self) -> None:
        for bar in (self._eval_bar, self._bar):
            if bar is not None:
                bar.close()
        self._bar = self._eval_bar = None
        self._logs_above_bar.close()

    def describe(self, samples: int, length: int) -> str:
        """What the bar and the lines say after so many samples of a run of `length`."""
        mean = self._mean_speed(samples)
        speed = self._logged.get(_SPEED, mean)
        parts = [f"{samples:,} of {length:,} {self._unit}"]
        parts += [f"loss {self._logged[_LOSS]:.4f}"] if _LOSS in self._logged else []
        parts += [f"{speed:,.0f} {self._unit}/s"] if speed else []
        for key, words in (("throughput/mfu", "MFU"), ("throughput/input_wait", "waiting for data")):
            parts += [f"{words} {self._logged[key]:.0%}"] if key in self._logged else []
        if mean and samples < length:
            next_save = min((samples // self._save_every + 1) * self._save_every, length)
            parts += [f"save in {_duration((next_save - samples) / mean)}"]
            parts += [f"end in {_duration((length - samples) / mean)}"]
        return ", ".join(parts)

    def _mean_speed(self, samples: int) -> float | None:
        """Samples per second since the first step of this start ended: that step may have compiled for minutes."""
        if self._begun is None or samples <= self._begun[1]:
            return None
        begun, first = self._begun
        return (samples - first) / max(time.monotonic() - begun, 1e-9)

    def _line_is_due(self) -> bool:
        is_due = time.monotonic() - self._last_line >= self._every
        if is_due:
            self._last_line = time.monotonic()
        return is_due


def _has_terminal() -> bool:
    """Whether there is one that shows a bar: those of containers have no size, and show none."""
    return sys.stderr.isatty() and all(os.get_terminal_size(sys.stderr.fileno()))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.ndim == 0)


def _is_shown() -> bool:
    return dist.get_global_rank() == 0


def _length(state: State) -> int:
    assert state.max_duration is not None
    return state.max_duration.value


def _duration(seconds: float) -> str:
    return str(min(timedelta(seconds=round(seconds)), _LONGEST))
