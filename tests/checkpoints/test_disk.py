"""A disk that is full, or may not be written to: told before training where it can be, and never costs what was saved.

Real file systems of that kind, in a namespace of their own: what permissions say does not bind root.
"""

from __future__ import annotations

import shutil
import subprocess
from collections import namedtuple
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from maws_composer.checkpoints.completeness import newest_complete
from maws_composer.checkpoints.retention import checkpoints_at_once, retire
from maws_composer.checkpoints.room import check_room
from maws_composer.config.plugins import load_with_ours
from maws_composer.config.problems import Problem
from maws_composer.outages import OutageError
from maws_composer.planning.memory import checkpoint_bytes
from tests.checkpoints.saved import save
from tests.runs import Runs

Disk = namedtuple("Disk", "total used free")
SHORT = ("max_duration=480sp", "save_interval=10ba")

_CAN_MOUNT = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
needs_mounts = pytest.mark.skipif(_CAN_MOUNT.returncode != 0, reason="unshare -rm may not mount on this machine")


def on_a_disk(options: str, meanwhile: str = "true") -> tuple[str, ...]:
    """Put before a launcher: $DISK is a file system with these options, and what is left on it is copied to $KEPT."""
    script = f'mount -t tmpfs -o {options} tmpfs "$DISK"; {meanwhile}; "$@"; code=$?; cp -a "$DISK" "$KEPT"; exit $code'
    return ("unshare", "-rm", "bash", "-c", script, "bash")


@pytest.fixture
def runs_on(tmp_path: Path, images: Path):
    """Runs whose checkpoints, of 11 MB each, are on a disk of their own; metrics and status are not."""

    def runs(*disk: str) -> Runs:
        checkpoints = tmp_path / "run" / "checkpoints"
        checkpoints.mkdir(parents=True, exist_ok=True)
        environment = {"DISK": str(checkpoints), "KEPT": str(tmp_path / "kept")}
        return Runs(tmp_path, images, environment, inside=on_a_disk(*disk))

    return runs


@pytest.mark.slow
@needs_mounts
def test_a_full_disk_ends_the_run_with_what_is_needed_and_keeps_what_was_saved(
    runs_on, runs: Runs, tmp_path: Path
) -> None:
    full = runs_on("size=25m")("run", *SHORT, processes=2)
    assert full.code != 0
    assert "save_folder: checkpoints will take 29.8 MB more" in full.output  # all three of the run
    reason = full.status["reason"]
    assert full.status["state"] == "failed" and full.status["batch"] == 30
    assert reason.startswith(
        f"SaveError: {full.folder}/checkpoints/ep0-ba30 could not be saved: no space left on device"
    )
    assert "make room there, or lower save_num_checkpoints_to_keep; the same command goes on" in reason
    newest, passed_over = newest_complete(tmp_path / "kept")
    assert newest is not None and newest.batch == 20 and not passed_over
    assert 3 * newest.size == pytest.approx(29.8e6, rel=0.15)  # small tensors cost more than their bytes
    (tmp_path / "run" / "checkpoints").rmdir()
    (tmp_path / "kept").rename(tmp_path / "run" / "checkpoints")  # a disk with more room
    losses = full.losses
    again = runs("run", *SHORT, processes=2)
    assert again.code == 0, again.output
    assert "at batch 20, sample 320" in again.output
    assert again.losses == losses and again.status["state"] == "finished"


@pytest.mark.slow
@needs_mounts
def test_a_disk_that_fails_one_rank_in_the_background_fails_all_together(runs_on, tmp_path: Path) -> None:
    """Out of inodes, which no look at the free bytes foresees: the folder and the first shard still fit."""
    full = runs_on("size=100m,nr_inodes=15")("run", *SHORT, processes=2)
    assert full.code != 0
    reason = full.status["reason"]
    assert reason.startswith(
        f"SaveError: {full.folder}/checkpoints/ep0-ba30 could not be saved: no space left on device"
    )
    assert "Connection closed by peer" not in full.output
    newest, passed_over = newest_complete(tmp_path / "kept")
    assert newest is not None and newest.batch == 20 and not passed_over  # what was half-written is gone


@needs_mounts
@pytest.mark.slow
def test_a_disk_that_others_fill_meanwhile_is_called_full(runs_on, tmp_path: Path) -> None:
    fill = '(until [ -d "$DISK/ep0-ba20" ]; do sleep 0.05; done; head -c 1G /dev/zero > "$DISK/theirs") 2>&- &'
    slow = ("code_paths=[tests/plugins]", "callbacks.slow_disk.seconds=5")
    full = runs_on("size=100m", f"{fill} true")("run", *SHORT, *slow, processes=2)
    assert full.code != 0
    assert f"{full.folder}/checkpoints/ep0-ba20 could not be saved: no space left on dev" in full.status["reason"]
    newest, passed_over = newest_complete(tmp_path / "kept")
    assert newest is not None and newest.batch == 10 and not passed_over


@needs_mounts
@pytest.mark.slow
def test_a_disk_that_may_not_be_written_to_any_more_ends_the_run(runs_on, tmp_path: Path) -> None:
    lock = '(until [ -e "$DISK/ep0-ba10/complete.json" ] && mount -o remount,ro "$DISK"; do sleep 0.05; done) 2>&- &'
    locked = runs_on("size=100m", f"{lock} true")("run", "max_duration=4_800sp", "save_interval=10ba", processes=2)
    assert locked.code != 0
    assert locked.status["reason"].startswith("SaveError: ")
    assert "could not be saved: read-only file system" in locked.status["reason"]
    newest, _ = newest_complete(tmp_path / "kept")
    assert newest is not None


@needs_mounts
def test_what_can_be_foreseen_is_told_before_anything_starts(runs_on) -> None:
    small = runs_on("size=5m")("run", *SHORT, processes=2)
    assert small.code == 2
    assert "save_folder  a checkpoint takes 9.9 MB" in small.output and "5.2 MB are free" in small.output
    assert not (small.folder / "status.json").exists()
    locked = runs_on("ro")("run", *SHORT)
    assert locked.code == 2
    assert f"save_folder  {locked.folder / 'checkpoints'} is not writable: Read-only file system" in locked.output


def test_the_room_that_is_asked_for_is_what_retention_leaves(runs: Runs, tmp_path: Path) -> None:
    run = load_with_ours(str(runs.recipe), ["save_interval=10ba"], 1).run
    for number, (batches, keep, every) in enumerate(product((1, 10, 50, 125), (1, 3, 20), (20, 50, None))):
        checkpoints, fullest = tmp_path / str(number), 0
        for batch in sorted({*range(10, batches, 10), batches}):
            save(checkpoints / f"ep0-ba{batch}", a=b"x")
            fullest = max(fullest, len(list(checkpoints.iterdir())))
            retire(checkpoints, batch, keep, every)
        kept = {"save_num_checkpoints_to_keep": keep, "save_keep_every": f"{every}ba" if every else None}
        assert checkpoints_at_once(replace(run, max_duration=f"{16 * batches}sp", **kept)) == fullest


def test_a_disk_without_room_for_all_that_is_kept_for_good_is_warned_of(
    runs: Runs, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["max_duration=1600sp", "save_interval=10ba", "save_num_checkpoints_to_keep=2", "save_keep_every=20ba"]
    needed = 6 * checkpoint_bytes(1000)  # of batches 20, 40 and 60 for good, of 80 and 90, and of 100, the last one
    for free, told in ((needed, False), (needed - 1, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: Disk(free, 0, free))
        caplog.clear()
        assert check_room(load_with_ours(str(runs.recipe), given, 1).run, trained=1000, world_size=1, nodes=1) == []
        assert ("6 at once" in caplog.text) == told


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("/proc/x", "/proc is not writable: No such file or directory; make it so, or name another save_folder"),
        ("{}/file", "{}/file is a file, where a folder is needed; move it, or name another save_folder"),
        ("{}/file/run", "{}/file is a file, where a folder is needed; move it, or name another save_folder"),
    ],
)
def test_a_folder_that_cannot_be_made_is_told_with_what_to_do(
    place: str, told: str, runs: Runs, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    loaded = load_with_ours(str(runs.recipe), [f"save_folder={place.format(tmp_path)}"], 1)
    [problem] = check_room(loaded.run, trained=1000, world_size=1, nodes=1)
    assert problem == Problem("save_folder", told.format(tmp_path))


def test_storage_that_is_away_is_told_apart_from_a_mistake(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    loaded = load_with_ours(str(runs.recipe), ["save_folder=s3://bucket/run"], 1)
    [problem] = check_room(loaded.run, trained=1000, world_size=1, nodes=1)
    assert problem == Problem("save_folder", "s3://bucket/run is not writable: Unable to locate credentials")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(OutageError, match="save_folder: s3://bucket/run is not writable: Could not connect"):
        check_room(loaded.run, trained=1000, world_size=1, nodes=1)
