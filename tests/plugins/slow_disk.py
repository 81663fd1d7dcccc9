"""A disk that takes its time, and ranks that fail."""

from __future__ import annotations

import time
from typing import Any

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist
from torch.distributed.checkpoint import FileSystemWriter

from maws_composer.registry import register_callback

_write_data = FileSystemWriter.write_data


@register_callback("slow_disk")
class SlowDisk(Callback):
    """Has every checkpoint take longer to write.

    Args:
        seconds: by how much.
    """

    def __init__(self, seconds: float) -> None:
        def write_data(*arguments: Any) -> Any:
            time.sleep(seconds)
            return _write_data(*arguments)

        FileSystemWriter.write_data = write_data  # type: ignore[method-assign]


@register_callback("fail_at")
class FailAt(Callback):
    """Raises on one rank before a step.

    Args:
        batch: steps done before.
        rank: which.
    """

    def __init__(self, batch: int, rank: int) -> None:
        self.batch, self.rank = batch, rank

    def batch_start(self, state: State, logger: Logger) -> None:
        if int(state.timestamp.batch) == self.batch and dist.get_global_rank() == self.rank:
            raise RuntimeError("as the test wants it")
