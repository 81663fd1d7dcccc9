"""The promise of the project: lose anything, start again on what is left, and get the same training run.

Real launchers, real processes, CPU and gloo. Losses are compared over 50 steps that cross the end of an epoch.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from numpy.testing import assert_allclose

from tests.runs import Finished, Runs

BITWISE = {"rtol": 0, "atol": 0}
ELASTIC = {"rtol": 1e-5}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Finished:
    """50 steps of one process, not interrupted."""
    finished = Runs(tmp_path_factory.mktemp("whole"), images)("whole")
    assert finished.code == 0, finished.output
    assert len(finished.losses) == 50
    return finished


def ids(finished: Finished) -> list[list[str]]:
    """Sample ids of each global batch, sorted."""
    return [sorted(step["ids"]) for step in finished.steps]


def test_two_processes_with_other_workers_and_microbatches_give_the_same_curve(whole: Finished, runs: Runs) -> None:
    two = runs("two", "speed.workers=2", "speed.device_train_microbatch_size=3", processes=2)
    assert two.code == 0, two.output
    assert "2 GPUs = 1 replicas x 2 shards" in two.output
    assert_allclose(two.losses, whole.losses, **ELASTIC)


def test_killed_and_started_again_gives_the_same_bits(whole: Finished, runs: Runs) -> None:
    runs("killed", kill_after=17)
    again = runs("killed")
    assert again.code == 0, again.output
    assert "ep0-ba10 at batch 10, sample 160" in again.output
    assert_allclose(again.losses, whole.losses, **BITWISE)


def test_losing_half_of_the_processes_does_not_change_the_curve(whole: Finished, runs: Runs) -> None:
    runs("cut", processes=2, kill_after=37)
    cut = runs("cut", processes=1)
    assert cut.code == 0, cut.output
    assert_allclose(cut.losses, whole.losses, **ELASTIC)


def test_gaining_processes_does_not_change_the_curve(whole: Finished, runs: Runs) -> None:
    runs("grown", processes=1, kill_after=24)
    grown = runs("grown", "speed.workers=1", processes=2)
    assert grown.code == 0, grown.output
    assert_allclose(grown.losses, whole.losses, **ELASTIC)


def test_a_finished_run_is_not_run_again(whole: Finished, runs: Runs) -> None:
    again = runs("../" + whole.folder.parent.name + "/whole")
    assert again.code == 0, again.output
    assert "complete already" in again.output
