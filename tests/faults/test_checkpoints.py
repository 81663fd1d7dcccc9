"""The newest checkpoint is not what was saved: the one before it is taken, and both are named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.matrix import SAVE_INTERVAL, Row
from tests.runs import Finished, Runs

NEWEST, BEFORE = "ep0-ba30", "ep0-ba20"


def passed_over(runs: Runs, row: Row, whole: Finished, damage: Callable[[Path], None], reason: str) -> None:
    runs("cut", *row.recording, processes=2, kill_after_saving=30)
    checkpoint = runs.folder / "cut" / "checkpoints" / NEWEST
    for newer in checkpoint.parent.glob("ep*-ba[4-9]0"):  # it was quick
        shutil.rmtree(newer)
    damage(checkpoint)
    again = runs("cut", *row.recording)
    assert reason in again.output and f"{BEFORE} at batch 20" in again.output, again.output
    row.told = reason
    row.same_run(again, whole)
    assert row.lost <= 3 * SAVE_INTERVAL


def tensors(checkpoint: Path) -> Path:
    return checkpoint / "__1_0.distcp"


@pytest.mark.slow
@pytest.mark.fault("a file of the newest checkpoint truncated", "passed over, by name")
def test_truncated_file(whole: Finished, runs: Runs, row: Row) -> None:
    def truncate(checkpoint: Path) -> None:
        tensors(checkpoint).write_bytes(tensors(checkpoint).read_bytes()[:1000])

    passed_over(runs, row, whole, truncate, "__1_0.distcp has 1,000 bytes")


@pytest.mark.slow
@pytest.mark.fault("a file of the newest checkpoint deleted", "passed over, by name")
def test_deleted_file(whole: Finished, runs: Runs, row: Row) -> None:
    passed_over(runs, row, whole, lambda checkpoint: tensors(checkpoint).unlink(), "__1_0.distcp is missing")


@pytest.mark.fault("one bit flipped in a file of the newest checkpoint", "passed over, by name")
def test_flipped_bit(whole: Finished, runs: Runs, row: Row) -> None:
    def flip(checkpoint: Path) -> None:
        data = bytearray(tensors(checkpoint).read_bytes())
        data[len(data) // 2] ^= 1
        tensors(checkpoint).write_bytes(data)

    passed_over(runs, row, whole, flip, "__1_0.distcp")


@pytest.mark.slow
@pytest.mark.fault("the newest checkpoint half-written", "passed over, by name")
def test_half_written(whole: Finished, runs: Runs, row: Row) -> None:
    reason = f"{NEWEST}: it has no complete.json: saving or uploading it was cut off"
    passed_over(runs, row, whole, lambda checkpoint: (checkpoint / "complete.json").unlink(), reason)


@pytest.mark.slow
@pytest.mark.fault("every checkpoint half-written", "the run begins anew, and says so")
def test_none_left(whole: Finished, runs: Runs, row: Row) -> None:
    runs("cut", *row.recording, kill_after_saving=20)
    for marker in (runs.folder / "cut" / "checkpoints").glob("*/complete.json"):
        marker.unlink()
    again = runs("cut", *row.recording)
    assert "has no complete checkpoint: starting at sample 0" in again.output
    row.same_run(again, whole)
