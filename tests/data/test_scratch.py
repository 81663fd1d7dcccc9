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


def abandoned(folder: Path, what: str = "x" * 5000) -> Path:
    """A folder of a dataset whose run was killed."""
    hold = [sys.executable, "-c", HOLD.replace("time.sleep(60)", ""), str(folder)]
    subprocess.run(hold, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    (folder / "cache" / "train").mkdir(parents=True)
    (folder / "cache" / "train" / "shard.00000.mds").write_text(what)
    return folder


def test_what_runs_that_are_over_left_is_freed_and_nothing_else(tmp_path, caplog):
    over = abandoned(scratch.run_folder(str(tmp_path), "runs/over", "train", ["s3://bucket/a"], 0))
    own = abandoned(scratch.run_folder(str(tmp_path), "runs/own", "eval-2", ["s3://bucket/b"], 0))
    elsewhere = abandoned(scratch.run_folder(str(tmp_path), "runs/elsewhere", "train", ["s3://bucket/a"], 0))
    (elsewhere / ".lock").write_text("1\nanother machine\n")
    users = abandoned(tmp_path / "data" / "pictures")
    alive = scratch.run_folder(str(tmp_path), "runs/alive", "train", ["s3://bucket/a"], 0)
    command = [sys.executable, "-c", HOLD, str(alive)]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        assert owner.stdout.readline() == b"here\n"
        with caplog.at_level("INFO"):
            scratch.free_abandoned(str(tmp_path), "runs/own")
    finally:
        owner.kill()
        owner.wait()
    assert set((tmp_path / "data").iterdir()) == {own, elsewhere, users, alive}
    assert (own / "cache" / "train" / "shard.00000.mds").exists()
    size = 5000 + len(f"{owner.pid}\n{scratch._machine()}\n")
    (said,) = [record.getMessage() for record in caplog.records if "freed" in record.getMessage()]
    assert said.endswith(f"in {tmp_path}/data, left there by runs that are over: {over.name}")
    assert abs(int(said.split()[1].removesuffix("b")) - size) < 3  # ids of processes differ in length


def test_who_waits_for_a_folder_that_is_freed_does_not_get_a_lock_that_others_cannot_see(tmp_path):
    folder = abandoned(scratch.run_folder(str(tmp_path), "runs/over", "train", ["s3://bucket/a"], 0))
    with (folder / ".lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = threading.Thread(target=scratch.claim, args=(folder, "speed.scratch_folder"))
        waiting.start()
        time.sleep(0.5)
        folder.rename(tmp_path / "freed")  # as `free_abandoned` does
    waiting.join(10)
    command = [sys.executable, "-c", HOLD.replace('"key"', '"key", 0.3'), str(folder)]
    second = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
    assert f"in use by another run (process {os.getpid()})" in second.stderr.decode()


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
