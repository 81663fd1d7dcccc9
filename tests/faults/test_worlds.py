"""Machines come and go between two starts."""

from __future__ import annotations

import pytest

from tests.faults.matrix import SAVE_INTERVAL, Row
from tests.runs import Finished, Runs


@pytest.mark.slow
@pytest.mark.fault("SIGKILL, and 2 → 1 → 4 → 2 processes", "the batch stays, each process takes another share of it")
def test_other_numbers_of_processes(whole: Finished, runs: Runs, row: Row) -> None:
    runs("cut", *row.recording, processes=2, kill_after=12)
    runs("cut", *row.recording, processes=1, kill_after=24)
    runs("cut", *row.recording, processes=4, kill_after=36)
    row.same_run(runs("cut", *row.recording, processes=2), whole)
    assert row.lost <= 3 * SAVE_INTERVAL


@pytest.mark.fault("SIGKILL, and 2 nodes of 1 process → 1 node of 2", "the order of samples does not know of nodes")
@pytest.mark.slow
def test_other_numbers_of_nodes(whole: Finished, runs: Runs, row: Row) -> None:
    runs("cut", *row.recording, processes=2, nodes=2, kill_after=22)
    row.same_run(runs("cut", *row.recording, processes=2), whole)
    assert row.lost <= SAVE_INTERVAL


@pytest.mark.slow
@pytest.mark.fault("SIGKILL, and a start on a number of processes that does not divide the batch", "refused")
def test_an_illegal_number_of_processes(whole: Finished, runs: Runs, row: Row) -> None:
    runs("cut", *row.recording, processes=2, kill_after=12)
    refused = runs("cut", *row.recording, processes=3)
    row.error(refused, "16 cannot be split over 3 GPUs; use 2 or 4")
    assert refused.code == 2
    row.same_run(runs("cut", *row.recording), whole)
