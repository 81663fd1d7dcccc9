"""How many processes decode for a rank, and the memory in which they work ahead."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from maws_composer.config.problems import Problem
from maws_composer.data.guards import readable_size
from maws_composer.parallel.settings import ForwardSpeed

MOST = 32
SHARED_MEMORY = Path("/dev/shm")  # PyTorch's loader processes pass batches here
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def loader_processes(speed: ForwardSpeed, ranks_of_node: int) -> int:
    """`speed.workers`; with `auto`, a rank's share of this node's cores without one for itself, at least 1."""
    if speed.workers != "auto":
        return speed.workers
    return max(1, min(usable_cores() // ranks_of_node - 1, MOST))


def usable_cores(quota: Path = _QUOTA) -> int:
    """Cores that this process may use: by its affinity, as Slurm sets it, and its container's quota (Kubernetes)."""
    allowed = len(os.sched_getaffinity(0))
    if not quota.exists():
        return allowed
    share, period = quota.read_text().split()
    return allowed if share == "max" else max(1, min(allowed, int(share) // int(period)))


def working_ahead(speed: ForwardSpeed, ranks_of_node: int, batch_bytes: int) -> int:
    """Bytes of finished batches that wait on a node, at most.

    Args:
        speed: how many processes there are, and how far each is ahead.
        ranks_of_node: each with processes of its own.
        batch_bytes: of one rank's batch.
    """
    return ranks_of_node * loader_processes(speed, ranks_of_node) * speed.prefetch_factor * batch_bytes


def shared_memory_problems(
    speed: ForwardSpeed, ranks_of_node: int, batch_bytes: int, folder: Path = SHARED_MEMORY
) -> list[Problem]:
    """Whether what waits has room; without, a loader process dies of a bus error. See `working_ahead`."""
    needed, size = working_ahead(speed, ranks_of_node, batch_bytes), shutil.disk_usage(folder).total
    if needed <= size:  # not what is free: batches of a run that was killed lie there for some seconds
        return []
    message = (
        f"batches that wait would take {readable_size(needed)} of {folder}, which has {readable_size(size)}; "
        f"give a container more (--shm-size={readable_size(2 * needed)}), or lower this, or speed.workers"
    )
    return [Problem("speed.prefetch_factor", message)]
