"""Collectives of CPU processes that torch 2.7's gloo gets wrong, or does for nothing.

`reduce_scatter_tensor(op=AVG)` silently returns the sum there, and `all_reduce(op=AVG)` raises, so FSDP2 on CPUs
multiplies gradients by the number of processes. Adam hides that in a fresh run, gradient clipping and a resume on
another number of processes do not. torch 2.11 is right by itself: `averages_are_sums` then answers False and nothing
is replaced (`tests/parallel/test_gloo.py` says when this file can go).
"""

from __future__ import annotations

from functools import cache, wraps
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist


def averages_are_sums() -> bool:
    """Try one average over the default process group (a collective: call it on every rank).

    Returns:
        True where `reduce_scatter_tensor(op=AVG)` of CPU tensors returns the sum.
    """
    world_size = dist.get_world_size()
    result = torch.empty(1)
    dist.reduce_scatter_tensor(result, torch.ones(world_size), op=dist.ReduceOp.AVG)
    return world_size > 1 and result.item() != 1.0


def average_correctly() -> None:
    """Replace torch.distributed's two averaging collectives for CPU tensors by sum and division, where needed."""
    if dist.get_backend() != "gloo" or not averages_are_sums():
        return
    dist.reduce_scatter_tensor = _sum_then_divide(dist.reduce_scatter_tensor)
    dist.all_reduce = _sum_then_divide(dist.all_reduce)


def _sum_then_divide(collective: Any) -> Any:
    @wraps(collective)
    def averaged(output: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("op") != dist.ReduceOp.AVG or output.device.type != "cpu":
            return collective(output, *args, **kwargs)
        if kwargs.pop("async_op", False):
            raise NotImplementedError("an asynchronous average over CPU processes; FSDP2 asks for none")
        collective(output, *args, **{**kwargs, "op": dist.ReduceOp.SUM})
        output.div_(dist.get_world_size(kwargs.get("group")))
        return None

    return averaged


@cache
def copy_within_one_rank() -> None:
    """Let a group of one CPU process copy to itself once, or not at all, where gloo copies several times.

    FSDP2 gathers into a tensor that the shard is a part of already. torch 2.11 asks gloo for neither.
    """
    dist.all_gather_into_tensor = _copy_if_alone(dist.all_gather_into_tensor)
    dist.reduce_scatter_tensor = _copy_if_alone(dist.reduce_scatter_tensor)


def _copy_if_alone(collective: Any) -> Any:
    parameters = signature(collective)

    @wraps(collective)
    def copied(*args: Any, **kwargs: Any) -> Any:
        given = parameters.bind(*args, **kwargs).arguments
        group = given.get("group")
        if given.get("async_op") or dist.get_backend(group) != "gloo" or dist.get_world_size(group) > 1:
            return collective(*args, **kwargs)
        output, source, *_ = given.values()
        if not source.is_set_to(output):
            output.copy_(source.view_as(output))
        return None

    return copied


def give_cpu_streams_events() -> None:
    """Let `torch.cpu.Stream` record events: HSDP waits for them, and torch 2.7 returns None for one.

    CPU work is done when the call returns, so an event is one that has always happened.
    """
    stream: Any = torch.cpu.Stream
    if stream().record_event() is None:
        stream.record_event = lambda self, event=None: _Happened()
        stream.wait_event = lambda self, event: None


class _Happened:
    def wait(self, stream: object = None) -> None: ...

    def query(self) -> bool:
        return True

    def synchronize(self) -> None: ...
