"""Object storage is away, slow, or answers with errors."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults.flaky_s3 import FlakyS3
from tests.faults.matrix import Row
from tests.runs import Finished, Notify, Runs, kill_session, steps_done
from tests.s3_server import S3Server, rclone

pytestmark = pytest.mark.skipif(rclone() is None, reason="rclone, of the extra `dev`, is not installed")

AWAY = 20.0  # seconds


@contextmanager
def served(tmp_path: Path, images: Path) -> Iterator[S3Server]:
    """A server that has the images."""
    with S3Server(tmp_path / "s3") as server:
        shutil.copytree(images, server.bucket("bucket") / "images")
        yield server


def remote(tmp_path: Path) -> tuple[str, ...]:
    return (
        "data.train.local=null", "data.train.remote=s3://bucket/images", "save_folder=s3://bucket/run",
        f"speed.scratch_folder={tmp_path / 'scratch'}",
    )  # fmt: skip


def stored(server: S3Server, finished: Finished) -> Finished:
    return Finished(finished.code, finished.output, server.bucket("bucket") / "run")


def stop_at(server: S3Server, scratch: Path, steps: int, seconds: float | None) -> Notify:
    """Stop the server once so many steps are done; start it again some time later, or not."""

    def notify(launcher: int, run_folder: Path, log: Path) -> bool:
        if not any(steps_done(folder) >= steps for folder in (scratch / "runs").glob("*")):
            return False
        server.stop()
        if seconds is not None:
            time.sleep(seconds)
            server.start()
        return True

    return notify


def kill_at(scratch: Path, steps: int) -> Notify:
    """SIGKILL all of a launch once so many steps are done."""

    def notify(launcher: int, run_folder: Path, log: Path) -> bool:
        if not any(steps_done(folder) >= steps for folder in (scratch / "runs").glob("*")):
            return False
        kill_session(launcher)
        return True

    return notify


def start_once_missed(server: S3Server, seconds: float) -> Notify:
    """Start the server some time after it was first missed."""

    def notify(launcher: int, run_folder: Path, log: Path) -> bool:
        if "trying again in" not in log.read_text():
            return False
        time.sleep(seconds)
        server.start()
        return True

    return notify


@pytest.mark.fault("S3 stopped for 20 s", "training goes on, uploads are tried again")
@pytest.mark.slow
def test_storage_away_for_a_while(whole: Finished, images: Path, tmp_path: Path, row: Row) -> None:
    with served(tmp_path, images) as server:
        runs = Runs(tmp_path, images, server.environment)
        away = stop_at(server, tmp_path / "scratch", 3, AWAY)
        finished = runs("run", *remote(tmp_path), *row.recording, notify=away)
        assert "trying again in" in finished.output
        row.same_run(stored(server, finished), whole)
        assert row.lost == 0


@pytest.mark.slow
@pytest.mark.fault("S3 stopped for longer than `storage_patience`", "the run stops; with S3, it goes on")
def test_storage_away_for_too_long(whole: Finished, images: Path, tmp_path: Path, row: Row) -> None:
    with served(tmp_path, images) as server:
        runs = Runs(tmp_path, images, server.environment)
        overrides = (*remote(tmp_path), *row.recording)
        away = stop_at(server, tmp_path / "scratch", 12, None)
        stopped = runs("run", *overrides, "storage_patience=8", notify=away)
        row.error(stopped, "the same command resumes the run")
        server.start()
        row.same_run(stored(server, runs("run", *overrides)), whole)


@pytest.mark.slow
@pytest.mark.fault("S3 answers every fourth request with 500, the others 0.1 s late", "tried again until it works")
def test_storage_that_errs(whole: Finished, images: Path, tmp_path: Path, row: Row) -> None:
    with served(tmp_path, images) as server, FlakyS3(server, delay=0.1, fails=4) as flaky:
        runs = Runs(tmp_path, images, flaky.environment)
        finished = runs("run", *remote(tmp_path), *row.recording)
        assert flaky.failed > 5
        row.same_run(stored(server, finished), whole)
        assert row.lost == 0


@pytest.mark.slow
@pytest.mark.fault("S3 stopped during a start, for 10 s", "the start waits; then the run goes on")
def test_storage_away_at_the_start(whole: Finished, images: Path, tmp_path: Path, row: Row) -> None:
    with served(tmp_path, images) as server:
        runs = Runs(tmp_path, images, server.environment)
        overrides = (*remote(tmp_path), *row.recording)
        killed = runs("run", *overrides, notify=kill_at(tmp_path / "scratch", 25))
        assert killed.code != 0
        server.stop()
        again = runs("run", *overrides, notify=start_once_missed(server, 10), processes=2)
        assert "looking at the data and at save_folder" in again.output and "trying again in" in again.output
        row.same_run(stored(server, again), whole)


@pytest.mark.slow
@pytest.mark.fault(
    "a step that is not finite while a checkpoint is being uploaded, S3 0.4 s late", "the upload is waited for"
)
def test_upload_under_way_when_all_ranks_stop(whole: Finished, images: Path, tmp_path: Path, row: Row) -> None:
    with served(tmp_path, images) as server, FlakyS3(server, delay=0.4) as slow:
        runs, overrides = Runs(tmp_path, images, slow.environment), (*remote(tmp_path), *row.recording)
        spoiled = ("callbacks.spoil_step.batches=[12]", "callbacks.spoil_step.factor=1e300")
        row.error(runs("run", *overrides, *spoiled, processes=2), "the loss is inf at batch 12")
        resume_from_bucket(10, server, runs, overrides, whole, row)


@pytest.mark.slow
@pytest.mark.fault("an error of one rank while a checkpoint is being uploaded, S3 0.4 s late", "it has 25 s")
def test_upload_under_way_when_one_rank_fails(whole: Finished, images: Path, tmp_path: Path, row: Row) -> None:
    with served(tmp_path, images) as server, FlakyS3(server, delay=0.4) as slow:
        runs, overrides = Runs(tmp_path, images, slow.environment), (*remote(tmp_path), *row.recording)
        failing = "callbacks.fail_at={batch: 12, rank: 1}"
        row.error(runs("run", *overrides, failing, processes=2), "a bug of this plugin")
        resume_from_bucket(10, server, runs, overrides, whole, row)


def resume_from_bucket(
    batch: int, server: S3Server, runs: Runs, overrides: tuple[str, ...], whole: Finished, row: Row
) -> None:
    """The machine's disk is gone; the bucket has the checkpoint of this batch, and the run goes on from it."""
    checkpoints = server.bucket("bucket") / "run" / "checkpoints"
    assert [path.parent.name for path in checkpoints.glob("*/complete.json")] == [f"ep0-ba{batch}"]
    shutil.rmtree(runs.folder / "scratch")
    runs.environment = server.environment  # no longer slow
    row.same_run(stored(server, runs("run", *overrides)), whole)
