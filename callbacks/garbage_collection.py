"""Garbage collection on all ranks at once."""

from __future__ import annotations

import gc

from composer.core import Callback, Event, State
from composer.loggers import Logger
from composer.utils import create_interval_scheduler

from maws_composer.config.durations import StepInterval
from maws_composer.registry import register_callback


@register_callback("garbage_collection")
class GarbageCollection(Callback):
    """Collects garbage after the same step on all ranks, and at no other time.

    Python collects when it has counted enough objects, which ranks do at different steps: each time the others wait for
    one, and with many ranks somebody collects in every step. Only what refers to itself needs this; all other memory is
    freed as ever. What was there before training is looked at once only, so that to collect takes milliseconds.

    Args:
        every: how often. More often costs time, less often host memory: see `memory/rss_gib`.
    """

    def __init__(self, every: StepInterval = "1000ba") -> None:
        self.is_due = create_interval_scheduler(every, include_end_of_training=False, checkpoint_events=False)
        self.was_automatic = gc.isenabled()

    def fit_start(self, state: State, logger: Logger) -> None:
        gc.disable()
        gc.collect()
        gc.freeze()

    def batch_end(self, state: State, logger: Logger) -> None:
        if self.is_due(state, Event.BATCH_END):
            gc.collect()

    def close(self, state: State, logger: Logger) -> None:
        gc.unfreeze()
        if self.was_automatic:
            gc.enable()
