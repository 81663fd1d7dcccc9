"""The orderly end of a rank."""

from __future__ import annotations

import time

import torch.distributed as dist
from composer.utils import dist as composer_dist


def leave_process_group(code: int = 0) -> None:
    """Wait for all ranks, then take the process group down.

    Without the wait for the others, one run in twelve aborts after it has finished. Without the pause, one in three
    hangs where a collective of Python's tensors came just before: the group's destructor holds the interpreter's lock
    and joins a thread that needs it to free them (torch 2.7, gloo).

    Args:
        code: what this rank will exit with. Where it is not 0, the launcher ends all that still runs and returns the
            code of the first rank, so that all others let it go first.
    """
    dist.barrier()
    time.sleep(0.1)
    dist.destroy_process_group()
    if code and composer_dist.get_local_rank():
        time.sleep(60)
