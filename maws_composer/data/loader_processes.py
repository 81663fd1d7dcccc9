"""How many processes decode for a rank."""

from __future__ import annotations

import os
from pathlib import Path

from maws_composer.parallel.settings import ForwardSpeed

MOST = 32
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
