"""A step that fails on one rank."""

from __future__ import annotations

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from maws_composer.registry import register_callback


@register_callback("fail_at")
class FailAt(Callback):
    """Raises before a step.

    Args:
        batch: steps done before.
        rank: that raises.
    """

    def __init__(self, batch: int, rank: int) -> None:
        self.batch, self.fails = batch, rank == dist.get_global_rank()

    def batch_start(self, state: State, logger: Logger) -> None:
        if self.fails and int(state.timestamp.batch) == self.batch:
            raise ValueError("a bug of this plugin")
