"""A step that hangs for a while."""

from __future__ import annotations

import time

from composer.core import Callback, State
from composer.loggers import Logger

from maws_composer.registry import register_callback


@register_callback("sleep_at")
class SleepAt(Callback):
    """Sleeps before a step.

    Args:
        batch: steps done before.
        seconds: of sleep.
    """

    def __init__(self, batch: int, seconds: float) -> None:
        self.batch, self.seconds = batch, seconds

    def batch_start(self, state: State, logger: Logger) -> None:
        if int(state.timestamp.batch) == self.batch:
            print(f"sleeping before step {self.batch}", flush=True)
            time.sleep(self.seconds)
