"""A node's plan of an epoch, in memory once: its leader writes it, all of its loader workers look into it.

A file and not `/dev/shm`, of which containers often have only 64 MB: 5 billion samples on 64 nodes are 0.6 GB each.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maws_composer.data.order import Ids, Seat


class PlannedSamples(Sequence[int]):
    """Ids of one worker's samples.

    Args:
        plan: sample ids of the node.
        seat: of the worker.
    """

    def __init__(self, plan: Ids, seat: Seat) -> None:
        self._plan = plan
        self._seat = seat
        self._count = seat.count(len(plan))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return self._plan[self._seat.row(np.arange(*number.indices(self._count)))]
        return int(self._plan[self._seat.row(number)])


def share_plan(path: Path, size: int, fill: Callable[[Ids], None], is_leader: bool, barrier: Callable[[], None]) -> Ids:
    """The same plan in all processes of a node; it is gone when the last of them drops it.

    Args:
        path: of a file that nobody else uses, on a local disk.
        size: of the plan.
        fill: writes the plan; called in the leader.
        is_leader: whether this process is.
        barrier: of the processes.
    """
    if is_leader:
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size * 8)  # a full disk is an error here, and SIGBUS later
        plan = np.memmap(path, np.int64, "r+", shape=size)
        fill(plan)
    barrier()
    if not is_leader:
        plan = np.memmap(path, np.int64, "r", shape=size)
    barrier()
    if is_leader:
        path.unlink()
    return plan.view(np.ndarray)
