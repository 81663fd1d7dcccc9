"""A disk that takes its time."""

from __future__ import annotations

import time
from typing import Any

from composer.core import Callback
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
