"""What else a machine does to a run: its memory, its clock, its other users."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.matrix import Row
from tests.runs import Finished, Runs

DAY = 86_400


@pytest.mark.fault("shared memory of a killed run left behind, without lock files", "removed; nobody else's is touched")
@pytest.mark.slow
def test_stale_shared_memory(whole: Finished, runs: Runs, row: Row) -> None:
    own = f"speed.scratch_folder={runs.folder / 'scratch'}"
    runs("cut", *row.recording, own, "speed.workers=1", kill_after=15)
    (known,) = (runs.folder / "scratch").rglob("shared_memory")
    prefix = int(known.read_text())
    for lock in known.parent.glob(f"{prefix:06}_*"):
        lock.unlink()
    left_behind, strangers = (Path(f"/dev/shm/{number:06}_next_epoch") for number in (prefix, prefix + 1))
    left_behind.write_bytes(bytes(8))  # whatever the kernel, or a resource tracker, was quick to remove
    strangers.write_bytes(bytes(8))
    try:
        again = runs("cut", *row.recording, own, "speed.workers=1")
        row.same_run(again, whole)
        assert "removed shared memory that a killed run left behind" in again.output
        assert strangers.exists() and not left_behind.exists()
    finally:
        strangers.unlink()


@pytest.mark.slow
@pytest.mark.fault("two runs at once on one machine", "neither notices the other")
def test_two_runs_at_once(whole: Finished, runs: Runs, row: Row) -> None:
    with ThreadPoolExecutor() as pool:
        first = pool.submit(runs, "first", *row.recording, processes=2)
        other = Row(runs.folder / "second's")
        second = runs("second", *other.recording, "speed.workers=1")
    row.same_run(first.result(), whole)
    other.same_run(second, whole)


@pytest.mark.slow
@pytest.mark.fault("a second start of a run that is under way", "refused, the first goes on")
def test_the_same_run_twice(whole: Finished, runs: Runs, row: Row) -> None:
    with ThreadPoolExecutor() as pool:
        sleeping = ("callbacks.sleep_at.batch=5", "callbacks.sleep_at.seconds=100")
        first = pool.submit(runs, "run", *row.recording, *sleeping)
        while not (runs.folder / "run" / "metrics.jsonl").exists():
            time.sleep(0.1)
        second = runs("run", *row.recording)
    row.error(second, "another process is training in")
    row.same_run(first.result(), whole)


@pytest.mark.slow
@pytest.mark.fault("the clock gone back by a day", "nothing asks it what is newest")
def test_clock_gone_back(whole: Finished, runs: Runs, row: Row) -> None:
    """Everything that was written before lies in the future."""
    cut = runs("cut", *row.recording, kill_after_saving=30)
    status = json.loads((cut.folder / "status.json").read_text())
    (cut.folder / "status.json").write_text(json.dumps(status | {"time": "2199-01-01T00:00:00+00:00"}))
    for path in [*cut.folder.rglob("*"), *scratch_of(cut)]:
        os.utime(path, (time.time() + DAY, time.time() + DAY), follow_symlinks=False)
    row.same_run(runs("cut", *row.recording), whole)
    assert row.lost < 10 + 20  # from the newest, whatever else was saved before the kill


def scratch_of(cut: Finished) -> list[Path]:
    return list((cut.folder.parent / "scratch").rglob("*"))
