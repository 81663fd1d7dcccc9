"""The microbatch that memory allows, and the numbers of GPUs on which a run may go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from maws_composer.config.plugins import load_with_ours
from maws_composer.config.run import Run
from maws_composer.planning.forecast import Cluster, forecast
from maws_composer.planning.plan import (
    memory_of,
    microbatch_size,
    possible_world_sizes,
    with_resharding_decided,
    workload_of,
)
from maws_composer.planning.preflight import check_model, check_nodes
from maws_composer.stages.build import build_stage
from tests.processes import ROOT, run_ranks

GB = 1e9
POLICIES = ("auto", "false", "true")
RANKS = Path(__file__).parent / "microbatch_ranks.py"


def recipe(name: str, *given: str) -> Run:
    return load_with_ours(ROOT / "yamls" / f"{name}.yaml", ["data.train.remote=s3://b/x", *given]).run


@pytest.mark.parametrize("name", ["mae_vitl", "wsp_vith", "lit_vitl"])
@pytest.mark.parametrize("memory", [40 * GB, 80 * GB])
def test_the_microbatch_is_the_largest_equal_part_of_a_share_that_fits(name: str, memory: float) -> None:
    run = recipe(name)
    workload = workload_of(run)
    for gpus in (8, 64):
        share = run.global_train_batch_size // gpus
        size = microbatch_size(run, workload, gpus, memory)
        assert share % size == 0
        assert memory_of(run, workload, gpus, size).total <= 0.8 * memory
        larger = [other for other in range(size + 1, share + 1) if share % other == 0]
        assert all(memory_of(run, workload, gpus, other).total > 0.8 * memory for other in larger)


@pytest.mark.parametrize("name", ["mae_vitb", "wsp_vith", "mae_vit2b", "mae_vit6.5b", "lit_vitl"])
@pytest.mark.parametrize("memory", [40 * GB, 80 * GB])
def test_blocks_stay_gathered_where_that_fits_beside_the_microbatch(name: str, memory: float) -> None:
    run, kept, resharded = (recipe(name, f"speed.sharding.reshard_after_forward={how}") for how in POLICIES)
    workload = workload_of(run)
    for gpus in (8, 64):
        size = microbatch_size(run, workload, gpus, memory)
        assert size == microbatch_size(resharded, workload, gpus, memory)
        fits = memory_of(kept, workload, gpus, size).total <= 0.8 * memory
        decided = with_resharding_decided(run, workload, gpus, memory)
        assert decided.speed.sharding.reshard_after_forward is not fits
        for given in (kept, resharded):
            assert with_resharding_decided(given, workload, gpus, memory) == given


def test_what_stays_gathered_counts_in_memory() -> None:
    kept, resharded = (
        recipe("mae_vitl", f"speed.sharding.reshard_after_forward={given}") for given in ("false", "true")
    )
    blocks = [sum(each.numel() for each in block.parameters()) for block in build_stage(kept).blocks()]
    more = memory_of(kept, workload_of(kept), 8, 64).gathered - memory_of(resharded, workload_of(kept), 8, 64).gathered
    assert more == pytest.approx(2 * sum(blocks))  # in bf16; at the loss, where the others are all resharded
    (problem,) = check_model(replace(kept, precision="fp32"), 8, 4 * GB)
    assert "set speed.sharding.reshard_after_forward=auto" in problem.message


def test_on_half_of_the_gpus_the_same_configuration_fits() -> None:
    run = recipe("mae_vitl", "speed.device_train_microbatch_size=512")
    workload = workload_of(run)
    assert memory_of(run, workload, 8, microbatch_size(run, workload, 8, 40 * GB)).total > 40 * GB
    automatic = replace(run, speed=replace(run.speed, device_train_microbatch_size="auto"))
    for gpus in (16, 8, 4, 2, 1):
        assert not check_model(automatic, gpus, 40 * GB)
    (problem,) = check_model(run, 8, 40 * GB)
    assert "in microbatches of 512, this kind has 40; set speed.device_train_microbatch_size=auto" in problem.message


def test_the_smallest_gpu_decides_for_all_ranks() -> None:
    ranks = run_ranks(RANKS, [80 * GB, 40 * GB], world_size=2)
    sizes = [rank["size"] for rank in ranks]
    run = recipe("mae_vitl")
    decided = with_resharding_decided(run, workload_of(run), 2, 40 * GB)
    assert [rank["reshards"] for rank in ranks] == [decided.speed.sharding.reshards] * 2
    assert sizes == [microbatch_size(run, workload_of(run), 2, 40 * GB)] * 2
    assert sizes[0] < microbatch_size(run, workload_of(run), 2, 80 * GB)


def test_a_microbatch_that_is_given_is_an_upper_bound() -> None:
    run = recipe("mae_vitl", "speed.device_train_microbatch_size=100")
    assert [microbatch_size(run, workload_of(run), gpus, 80 * GB) for gpus in (8, 64)] == [100, 64]


def test_numbers_of_gpus_are_those_that_share_batch_nodes_and_memory() -> None:
    run = recipe("mae_vit6.5b", "global_train_batch_size=3072", "data.train.num_canonical_nodes=6")
    workload = workload_of(run)
    # nodes of 8: 1, 2, 3 and 6 divide 6 canonical nodes; 104 GB of states do not fit one, two or three of 40 GB
    assert possible_world_sizes(run, workload, 8, 64, float("inf")) == [1, 2, 3, 4, 6, 8, 16, 24, 48]
    assert possible_world_sizes(run, workload, 8, 64, 40 * GB) == [4, 6, 8, 16, 24, 48]
    assert forecast(run, Cluster(gpus=24, kind="a100-40gb")).possible == [4, 6, 8, 16, 24, 48]


def test_nodes_of_unequal_size_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    (problem,) = check_nodes(12)
    assert problem.message == "12 processes, 8 of them on this node; start equally many on every node"
    assert not check_nodes(16)
