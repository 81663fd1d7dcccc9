"""Doing something once, with the same outcome on every rank, failures too.

One rank that raises while the others go on to the next collective is a hang; here all of them raise.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist
from composer.utils import dist as composer_dist

Result = TypeVar("Result")


def cpu_group(timeout: float) -> dist.ProcessGroup:
    """A group of all ranks for what their CPUs have to tell one another without waiting for the GPUs. A collective.

    One for each thread that uses it, and no more: each costs every rank a connection to every other rank.

    Args:
        timeout: seconds that ranks wait for one another.
    """
    return dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))


def on_rank_zero(action: Callable[[], Result]) -> Result:
    """Do `action` on global rank 0 only; every rank returns its result, or raises what it raised.

    The result travels between processes, so it has to be picklable.
    """
    outcome: list[Any] = [None, None]
    if dist.get_rank() == 0:
        outcome = _attempt(action)
    dist.broadcast_object_list(outcome, src=0)
    result, error = outcome
    if error is not None:
        raise error
    return result


def once_per_node(action: Callable[[], None]) -> None:
    """Do `action` on each node's local rank 0; every rank raises if one of them did."""
    on_every_rank(lambda: action() if composer_dist.get_local_rank() == 0 else None)


def on_every_rank(action: Callable[[], Result], group: dist.ProcessGroup | None = None) -> list[Result]:
    """Do `action` on every rank; every rank returns all results, or raises what the first rank that failed raised.

    Results travel between processes, so they have to be picklable.

    Args:
        action: may differ between ranks.
        group: of all ranks. Null: the default one, which on GPUs is not for a thread in the background.
    """
    outcomes: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(outcomes, _attempt(action), group=group)
    for _, error in outcomes:
        if error is not None:
            raise error
    return [result for result, _ in outcomes]


def _attempt(action: Callable[[], Any]) -> list[Any]:
    try:
        return [action(), None]
    except Exception as error:
        return [None, error]
