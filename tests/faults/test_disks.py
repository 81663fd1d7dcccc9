"""The disk that the run is saved on is full, or cannot be written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults.matrix import Row
from tests.faults.small_disk import SmallDisk, namespaces
from tests.moments import after_steps
from tests.runs import Finished, Notify, Runs

pytestmark = pytest.mark.skipif(not namespaces(), reason="user namespaces are not allowed here: no disk to fill")


@pytest.fixture
def disk(tmp_path: Path):
    with SmallDisk(tmp_path / "disk", 64 << 20) as disk:
        yield disk


@pytest.fixture
def runs(disk: SmallDisk, tmp_path: Path, images: Path) -> Runs:
    return Runs(tmp_path, images, inside=disk.inside)


def on_disk(disk: SmallDisk) -> str:
    return f"save_folder={disk.folder / 'run'}"


def seen(disk: SmallDisk, finished: Finished) -> Finished:
    return Finished(finished.code, finished.output, disk.seen / "run")


def fill_after(disk: SmallDisk, steps: int) -> Notify:
    def notify(launcher: int, run_folder: Path, log: Path) -> bool:
        return after_steps(steps)(disk.seen / "run", log) and disk.remount(f"size={used(disk) + (1 << 20)}")

    return notify


def used(disk: SmallDisk) -> int:
    return sum(path.stat().st_size for path in disk.seen.rglob("*") if path.is_file())


@pytest.mark.slow
@pytest.mark.fault("the disk fills up", "the run stops, with its last checkpoint whole; with room, it goes on")
def test_full_disk(whole: Finished, runs: Runs, row: Row, disk: SmallDisk) -> None:
    stopped = runs("run", on_disk(disk), *row.recording, processes=2, notify=fill_after(disk, 12))
    row.error(stopped, "could not be saved: no space left on device")
    disk.remount("size=64m")
    assert json.loads((disk.seen / "run/checkpoints/ep0-ba10/complete.json").read_text())
    row.same_run(seen(disk, runs("run", on_disk(disk), *row.recording, processes=2)), whole)


@pytest.mark.slow
@pytest.mark.fault("the disk of the checkpoints becomes read-only", "the run stops, with its last checkpoint whole")
def test_disk_that_becomes_read_only(whole: Finished, row: Row, tmp_path: Path, images: Path) -> None:
    with SmallDisk(tmp_path / "run" / "checkpoints", 64 << 20) as disk:
        runs = Runs(tmp_path, images, inside=disk.inside)

        def lock(launcher: int, run_folder: Path, log: Path) -> bool:
            return after_steps(12)(run_folder, log) and disk.remount("ro")

        stopped = runs("run", *row.recording, processes=2, notify=lock)
        row.error(stopped, "could not be saved: read-only file system")
        disk.remount("rw")
        row.same_run(runs("run", *row.recording), whole)


@pytest.mark.slow
@pytest.mark.fault("a start on a read-only `save_folder`", "refused before any process is joined")
def test_read_only_save_folder(whole: Finished, runs: Runs, row: Row, disk: SmallDisk) -> None:
    disk.remount("ro")
    refused = runs("run", on_disk(disk), *row.recording, processes=2)
    row.error(refused, "is not writable: Read-only file system")
    assert refused.code == 2
    disk.remount("rw")
    row.same_run(seen(disk, runs("run", on_disk(disk), *row.recording)), whole)
