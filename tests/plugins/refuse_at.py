"""A configuration that ranks refuse."""

from __future__ import annotations

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.registry import register_callback


@register_callback("refuse_at")
class RefuseAt(Callback):
    """Raises before a step.

    Args:
        batch: steps done before.
        rank: that raises. Null: all do.
    """

    def __init__(self, batch: int, rank: int | None) -> None:
        self.batch, self.fails = batch, rank in (None, dist.get_global_rank())

    def batch_start(self, state: State, logger: Logger) -> None:
        if self.fails and int(state.timestamp.batch) == self.batch:
            raise ConfigError([Problem("callbacks.refuse_at", "is refused")])
