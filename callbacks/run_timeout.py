"""An end in time, where a queue limits how long a job may take."""

from __future__ import annotations

import threading
import time
from typing import Annotated

import psutil
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist
from pydantic import Field

from maws_composer.registry import register_callback
from maws_composer.resilience.notice import give_notice


@register_callback("run_timeout")
class RunTimeout(Callback):
    """Gives notice, as a scheduler would, once this start is some hours old.

    So all ranks leave after the same step, or out of an evaluation; what was done is saved, `status.json` says
    `preempted`, and the same command goes on with the run. Leave what the longest step and a checkpoint take, and
    `preemption.grace`, between it and the queue's limit.

    Args:
        hours: since the first rank's process was started.
    """

    def __init__(self, hours: Annotated[float, Field(gt=0)]) -> None:
        self.hours = hours

    def init(self, state: State, logger: Logger) -> None:
        age = time.time() - psutil.Process().create_time()
        reason = f"callbacks.run_timeout.hours={self.hours:g} are over"
        self.timer = threading.Timer(max(self.hours * 3600 - age, 0), give_notice, [reason])
        self.timer.daemon = True
        if dist.get_global_rank() == 0:
            self.timer.start()

    def close(self, state: State, logger: Logger) -> None:
        self.timer.cancel()
