"""How much memory training takes."""

from __future__ import annotations

import psutil
import torch
from composer.core import Callback, Event, State
from composer.loggers import Logger
from composer.utils import create_interval_scheduler, dist

from maws_composer.config.durations import StepInterval
from maws_composer.registry import register_callback

GIB = 2**30


@register_callback("memory")
class Memory(Callback):
    """Logs, in GiB and of the rank that has most: on GPUs `memory/allocated_gib` (by tensors, between two steps),
    `memory/peak_allocated_gib` (the most since it was logged last) and `memory/reserved_gib` (by torch's allocator, so
    that others cannot have it); everywhere `memory/rss_gib`, the host memory of a rank without its loader workers.

    Composer's MemoryMonitor counts in decimal gigabytes, of rank 0 or of each, and the peak since the start: an
    evaluation in the first hour hides what comes later.

    Args:
        every: how often.
    """

    def __init__(self, every: StepInterval = "100ba") -> None:
        self.is_due = create_interval_scheduler(every, include_end_of_training=False, checkpoint_events=False)
        self.process = psutil.Process()

    def batch_end(self, state: State, logger: Logger) -> None:
        if not self.is_due(state, Event.BATCH_END):
            return
        own = self._own()
        most = state.device.tensor_to_device(torch.tensor([*own.values()], dtype=torch.float64))
        dist.all_reduce(most, "MAX")
        logger.log_metrics({f"memory/{name}_gib": size / GIB for name, size in zip(own, most.tolist(), strict=True)})

    def _own(self) -> dict[str, float]:
        """Of this rank, in bytes."""
        sizes: dict[str, float] = {"rss": self.process.memory_info().rss}
        if torch.cuda.is_available():
            sizes["allocated"] = torch.cuda.memory_allocated()
            sizes["peak_allocated"] = torch.cuda.max_memory_allocated()
            sizes["reserved"] = torch.cuda.memory_reserved()
            torch.cuda.reset_peak_memory_stats()
        return sizes
