"""Folders and shared memory belong to one living run."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import pytest

from maws_composer.config.problems import ConfigError
from maws_composer.data import scratch
from maws_composer.data.guards import readable_size
from tests.data import reader
from tests.data.shards import write_shards
from tests.processes import ROOT

HOLD = """
import sys, time
from pathlib import Path
from maws_composer.data.scratch import claim
claim(Path(sys.argv[1]), "key")
print("here", flush=True)
time.sleep(60)
"""


def test_a_folder_in_use_is_refused_until_its_owner_is_dead(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        assert owner.stdout.readline() == b"here\n"
        with pytest.raises(ConfigError) as refused:
            scratch.claim(tmp_path, "speed.scratch_folder", patience=0.3)
        assert str(refused.value) == (
            f"speed.scratch_folder: {tmp_path} is in use by another run (process {owner.pid}); give each its own"
        )
    finally:
        owner.kill()
        owner.wait()
    scratch.claim(tmp_path, "speed.scratch_folder", patience=5)
    scratch.claim(tmp_path, "speed.scratch_folder", patience=0)  # one's own folder is no obstacle


def abandoned(folder: Path, machine: str | None = None) -> Path:
    """A folder of a dataset whose run was killed, with a shard of 5 kB."""
    (folder / "cache" / "train").mkdir(parents=True)
    (folder / "cache" / "train" / "shard.00000.mds").write_bytes(b"x" * 5000)
    (folder / ".lock").write_text(f"123\n{machine or scratch._machine()}\n")
    return folder


def folder_of(scratch_folder: Path, run: str, dataset: str = "train") -> Path:
    return scratch.run_folder(str(scratch_folder), f"runs/{run}", dataset, ["s3://bucket/images"], 0)


def test_what_runs_that_are_over_left_is_freed_and_nothing_else(tmp_path, caplog):
    over, interrupted = abandoned(folder_of(tmp_path, "over")), abandoned(folder_of(tmp_path, "freed-before", "eval-2"))
    interrupted.rename(interrupted.with_name(f"freed-{interrupted.name}"))
    kept = {
        abandoned(folder_of(tmp_path, "own", "eval-2")),
        abandoned(folder_of(tmp_path, "elsewhere"), "another machine"),
        abandoned(tmp_path / "data" / "pictures"),
        alive := abandoned(folder_of(tmp_path, "alive")),
    }
    with (alive / ".lock").open() as held, caplog.at_level("INFO"):
        fcntl.flock(held, fcntl.LOCK_EX)
        scratch.free_abandoned(str(tmp_path), "runs/own")
    assert set((tmp_path / "data").iterdir()) == kept
    assert all((folder / "cache" / "train" / "shard.00000.mds").exists() for folder in kept)
    (said,) = caplog.messages
    lock = len(f"123\n{scratch._machine()}\n")
    assert said == (
        f"freed {readable_size(2 * (5000 + lock))} in {tmp_path}/data, left there by runs that are over: "
        f"freed-{interrupted.name}, {over.name}"
    )


def test_a_lock_on_a_folder_that_is_freed_meanwhile_is_not_taken_for_one_of_the_new_folder(tmp_path):
    folder = abandoned(folder_of(tmp_path, "over"))
    with (folder / ".lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = threading.Thread(target=scratch.claim, args=(folder, "speed.scratch_folder"))
        waiting.start()
        time.sleep(0.5)
        folder.rename(tmp_path / "freed")  # as `free_abandoned` does
    waiting.join(10)
    assert (folder / ".lock").read_text().split() == [str(os.getpid()), scratch._machine()]
    with (folder / ".lock").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_killed_run_starts_again_on_its_folder_and_only_its_own_shared_memory_is_removed(tmp_path):
    folder = write_shards(tmp_path / "data")
    meet = {"meet": str(tmp_path), "meet_after": 2}
    scenario = {
        "train": {"remote": str(folder), "num_canonical_nodes": 4},
        "scratch": str(tmp_path / "scratch"),
        "workers": 2,
    }
    ranks = reader.start([{**scenario, **meet}], world_size=2)
    while not (tmp_path / "here").exists():
        assert all(rank.process.is_alive() for rank in ranks)
        time.sleep(0.02)
    ours = (tmp_path / "scratch" / "data").glob("train-*/shared_memory")
    (prefix,) = {file.read_text() for file in ours}
    for rank in ranks:
        os.kill(rank.process.pid, signal.SIGKILL)
    others = SharedMemory("000000_locals_of_somebody_else", create=True, size=4)
    try:
        left = list(Path("/dev/shm").glob(f"{int(prefix):06}_*"))
        assert left
        (results,) = reader.run([scenario], world_size=2)
        assert not any(result["error"] for result in results)
        assert sorted(row[1] for result in results for row in result["rows"]) == list(range(96))
        assert not any(path.exists() for path in left)
        assert Path("/dev/shm", others.name).exists()
    finally:
        others.close()
        others.unlink()


def test_a_cache_that_was_filled_from_other_shards_is_refused(tmp_path):
    folder = write_shards(tmp_path / "data", 40)
    settings = {"remote": str(folder), "local": str(tmp_path / "cache"), "num_canonical_nodes": 4}
    scenario = {"train": settings, "scratch": str(tmp_path / "scratch")}
    ((first,),) = reader.run([scenario])
    assert first["error"] is None
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    write_shards(folder, 50)
    ((second,),) = reader.run([scenario])
    assert second["error"] == (
        f"data.train.local: {folder} has changed since {tmp_path / 'cache'} was filled from it; delete that folder"
    )
