"""torch 2.7's gloo returns sums for averages; the cure, and when it can go."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from maws_composer.parallel.gloo import copy_within_one_rank
from tests.processes import run_ranks


def test_averages_are_averages_and_sums_stay_sums() -> None:
    for rank in run_ranks(Path(__file__).parent / "gloo_average.py", {}, world_size=2):
        assert rank["after"] == [4.5, 1.5, 3.0]


@pytest.mark.skipif(torch.__version__ >= "2.8", reason="about torch 2.7")
def test_without_the_cure_they_are_sums() -> None:
    """When this fails, `parallel/gloo.py` has nothing to do any more and can go."""
    assert run_ranks(Path(__file__).parent / "gloo_average.py", {}, world_size=2)[0]["before"]


def test_one_rank_gathers_and_scatters_to_itself() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        copy_within_one_rank()
        shard, gathered, scattered = torch.arange(6.0), torch.empty(6), torch.empty(6)
        dist.all_gather_into_tensor(output_tensor=gathered, input_tensor=shard)
        dist.reduce_scatter_tensor(scattered, shard, op=dist.ReduceOp.AVG)
        assert gathered.equal(shard) and scattered.equal(shard)
        dist.all_gather_into_tensor(shard, shard.narrow(0, 0, 6))  # as FSDP2 does
        assert shard.equal(torch.arange(6.0))
    finally:
        dist.destroy_process_group()
