"""What memory decides at this start: the same on all ranks, reckoned before anything is tried."""

from __future__ import annotations

import os

import torch
from composer.utils import dist

from maws_composer.config.run import Run
from maws_composer.parallel.settings import Speed
from maws_composer.planning.memory import FIXED_OVERHEAD
from maws_composer.planning.plan import microbatch_size, with_resharding_decided, workload_of


def memory_here() -> float:
    """Bytes that a rank of this machine may reckon with: its GPU's.

    Without a GPU its share of half of the machine's memory, and what the estimate adds for CUDA. Of the whole memory,
    not of what is free at the moment: with other microbatches, another start would not give the same bits.
    """
    if torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return machine / 2 / dist.get_local_world_size() + FIXED_OVERHEAD


def agree_on_memory(run: Run) -> tuple[int, Speed]:
    """What the smallest GPU has memory for. A collective.

    Returns:
        Samples that go through each GPU at once, and the run's `speed`, which knows whether blocks are resharded after
        the forward pass.
    """
    world_size, workload = dist.get_world_size(), workload_of(run)
    memory = min(dist.all_gather_object(memory_here()))
    decided = with_resharding_decided(run, workload, world_size, memory)
    return microbatch_size(run, workload, world_size, memory), decided.speed
