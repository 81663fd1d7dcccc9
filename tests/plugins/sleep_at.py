"""A step that hangs for a while."""

from __future__ import annotations

import time
from pathlib import Path

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from maws_composer.registry import register_callback


@register_callback("sleep_at")
class SleepAt(Callback):
    """Sleeps before a step.

    Args:
        batch: steps done before.
        seconds: of sleep.
        rank: that sleeps. Null: all.
        until: file that ends the sleep when it is there.
    """

    def __init__(self, batch: int, seconds: float, rank: int | None = None, until: str | None = None) -> None:
        self.batch, self.seconds, self.until = batch, seconds, until
        self.sleeps = rank is None or rank == dist.get_global_rank()

    def batch_start(self, state: State, logger: Logger) -> None:
        if self.sleeps and int(state.timestamp.batch) == self.batch:
            print(f"sleeping before step {self.batch}", flush=True)
            end = time.monotonic() + self.seconds
            while time.monotonic() < end and not (self.until and Path(self.until).exists()):
                time.sleep(0.05)
