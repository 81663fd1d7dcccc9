"""How often FSDP2 gathers, counted on one rank of two that need not be there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from maws_composer.parallel.gloo import copy_within_one_rank
from maws_composer.parallel.settings import Sharding, Speed
from maws_composer.parallel.shard import shard
from tests.parallel.sharded_steps import Stage

MICROBATCHES = 3


@pytest.fixture(autouse=True)
def one_of_two_ranks() -> Iterator[None]:
    dist.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield
    dist.destroy_process_group()


@pytest.fixture
def gathers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of what was gathered."""
    copy_within_one_rank()  # once in a process: else it would wrap what is counted here, and be undone with it
    sizes: list[int] = []
    gather = dist.all_gather_into_tensor

    def counting(output_tensor: torch.Tensor, *given: Any, **more: Any) -> Any:
        sizes.append(output_tensor.numel())
        return gather(output_tensor, *given, **more)

    monkeypatch.setattr(dist, "all_gather_into_tensor", counting)
    return sizes


@pytest.mark.parametrize(("reshards", "per_block"), [(True, 2), (False, 1), ("auto", 2)])
def test_blocks_are_gathered_once_or_twice_in_each_microbatch(reshards: bool, per_block: int, gathers: list) -> None:
    with torch.device("meta"):
        stage = Stage()
    speed = Speed(sharding=Sharding(reshard_after_forward=reshards))
    shard(stage, speed, "fp32", seed=3, device=torch.device("cpu"))
    blocks = len(stage.blocks())

    def forward() -> torch.Tensor:
        return stage.mae(torch.zeros(2, 3, 24, 24), torch.arange(32).view(2, 16)).loss

    def step() -> int:
        gathers.clear()
        for _ in range(MICROBATCHES):
            forward().backward()
        return len(gathers)

    in_a_step = MICROBATCHES * (per_block * blocks + 1)  # what lies outside of the blocks stays
    assert step() == in_a_step
    gathers.clear()
    with torch.no_grad():
        forward()
    assert len(gathers) == blocks + 1
    assert step() == in_a_step - 1  # which the evaluation has left
