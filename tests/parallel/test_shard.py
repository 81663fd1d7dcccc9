"""Sharding changes how fast a step is, and nothing else."""

from pathlib import Path

import pytest
from numpy.testing import assert_allclose

from maws_composer.parallel.degrees import sharding_degrees
from tests.processes import run_ranks

STEPS = Path(__file__).parent / "sharded_steps.py"


@pytest.fixture(scope="module")
def alone() -> dict:
    return run_ranks(STEPS, {}, world_size=1)[0]


def test_two_processes_train_as_one_does(alone: dict) -> None:
    together = run_ranks(STEPS, {}, world_size=2)
    assert [rank["initial"] for rank in together] == [alone["initial"]] * 2
    assert_allclose(together[0]["losses"], alone["losses"], rtol=1e-5)


def test_replicas_of_shards_train_as_one_does(alone: dict) -> None:
    ranks = run_ranks(STEPS, {"shard": 2}, world_size=4)
    assert ranks[0]["mesh"] == [2, 2] and ranks[0]["patience"] == [4321, 4321]
    assert {rank["initial"] for rank in ranks} == {alone["initial"]}
    assert_allclose(ranks[3]["losses"], alone["losses"], rtol=1e-5)


def test_replicas_alone_train_as_one_does(alone: dict) -> None:
    ranks = run_ranks(STEPS, {"shard": 1}, world_size=2)
    assert ranks[0]["mesh"] == [2, 1]
    assert_allclose(ranks[0]["losses"], alone["losses"], rtol=1e-5)


@pytest.mark.parametrize("blocks", ["all", pytest.param(2, marks=pytest.mark.slow)])
def test_recomputed_activations_give_the_same_bits(alone: dict, blocks: str | int) -> None:
    assert run_ranks(STEPS, {"checkpointing": blocks}, world_size=1)[0]["losses"] == alone["losses"]


@pytest.mark.slow
@pytest.mark.parametrize("given", [{"shard": 2, "checkpointing": 2}, {"shard": 1}])
def test_blocks_that_stay_gathered_give_the_same_bits(given: dict) -> None:
    kept, again = (run_ranks(STEPS, {**given, "reshards": reshards}, world_size=2)[0] for reshards in (False, True))
    assert kept["losses"] == again["losses"]


@pytest.mark.slow
def test_compiled_blocks_train_as_eager_ones(alone: dict) -> None:
    compiled = run_ranks(STEPS, {"compile": True, "checkpointing": 2}, world_size=2, timeout=280)[0]
    assert_allclose(compiled["losses"], alone["losses"], rtol=1e-5)


@pytest.mark.parametrize(
    ("world_size", "at_most", "degrees"),
    [(64, 64, (1, 64)), (32, 64, (1, 32)), (48, 32, (2, 24)), (7, 4, (7, 1)), (8, None, (1, 8)), (1, 64, (1, 1))],
)
def test_the_degree_is_the_largest_divisor_not_above_the_limit(world_size, at_most, degrees) -> None:
    assert sharding_degrees(world_size, at_most) == degrees
