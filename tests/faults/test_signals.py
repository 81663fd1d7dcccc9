"""Notice is given: nothing is lost, whoever hears it, and whatever the run is doing."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.faults.flaky_s3 import FlakyS3
from tests.faults.matrix import Row
from tests.moments import Moment, after_steps, announced, to_launcher, to_rank
from tests.runs import Finished, Notify, Runs
from tests.s3_server import S3Server, rclone


def preempted_and_resumed(runs: Runs, row: Row, whole: Finished, notify: Notify, *overrides: str) -> None:
    cut = runs("cut", *row.recording, *overrides, processes=2, notify=notify)
    assert cut.status["state"] == "preempted", cut.output
    row.same_run(runs("cut", *row.recording), whole)


@pytest.mark.slow
@pytest.mark.fault("SIGTERM to Composer's launcher", "it passes it on and gives the ranks 30 s: they save and leave")
def test_sigterm_to_the_launcher(whole: Finished, runs: Runs, row: Row) -> None:
    preempted_and_resumed(runs, row, whole, to_launcher(signal.SIGTERM, after_steps(13)))
    assert row.lost == 0


@pytest.mark.slow
@pytest.mark.fault("SIGTERM to `maws-composer launch`", "the ranks save and leave; exit code 75: start it again")
def test_sigterm_to_our_launcher(whole: Finished, images: Path, tmp_path: Path, row: Row) -> None:
    runs = Runs(tmp_path, images, launcher=("maws_composer.cli", "launch"))
    cut = runs("cut", *row.recording, processes=2, notify=to_launcher(signal.SIGTERM, after_steps(13)))
    assert cut.code == 75 and cut.status["state"] == "preempted", cut.output
    row.same_run(runs("cut", *row.recording), whole)
    assert row.lost == 0


@pytest.mark.fault("SIGTERM to one rank", "all ranks stop after the same step, save, and exit with 0")
def test_sigterm_to_one_rank(whole: Finished, runs: Runs, row: Row) -> None:
    preempted_and_resumed(runs, row, whole, to_rank(1, signal.SIGTERM, after_steps(13)))
    assert row.lost == 0


@pytest.mark.slow
@pytest.mark.fault("SIGTERM during a save", "the save is completed first")
def test_sigterm_during_a_save(whole: Finished, runs: Runs, row: Row) -> None:
    preempted_and_resumed(runs, row, whole, to_rank(0, signal.SIGTERM, saving()), "save_interval=1ba")
    assert row.lost == 0


@pytest.mark.slow
@pytest.mark.skipif(rclone() is None, reason="rclone, of the extra `dev`, is not installed")
@pytest.mark.fault("SIGTERM during an upload, its machine's disk lost", "the new checkpoint arrives in the grace time")
def test_sigterm_during_an_upload(whole: Finished, images: Path, tmp_path: Path, row: Row) -> None:
    with S3Server(tmp_path / "s3") as server, FlakyS3(server, delay=0.2) as slow:
        stored = server.bucket("bucket") / "run"
        runs = Runs(tmp_path, images, slow.environment)
        remote = ("save_folder=s3://bucket/run", f"speed.scratch_folder={tmp_path / 'scratch'}", *row.recording)

        def uploading(run_folder: Path, log: Path) -> bool:
            partly = stored / "checkpoints" / "ep0-ba10"
            return partly.exists() and not (partly / "complete.json").exists()

        cut = runs("cut", *remote, notify=to_rank(0, signal.SIGTERM, uploading))
        assert Finished(cut.code, cut.output, stored).status["state"] == "preempted", cut.output
        shutil.rmtree(tmp_path / "scratch")
        again = runs("cut", *remote)
        row.same_run(Finished(again.code, again.output, stored), whole)
        assert row.lost == 0


@pytest.mark.slow
@pytest.mark.fault("SIGTERM during an evaluation", "it is cut off, and made up for by the next start")
def test_sigterm_during_an_evaluation(whole: Finished, runs: Runs, row: Row, images: Path) -> None:
    evaluating = (*row.recording, f"data.eval.local={images}", "eval_interval=20ba", "speed.device_eval_batch_size=2")
    cut = runs("cut", *evaluating, processes=2, notify=to_rank(0, signal.SIGTERM, after_steps(20)))
    assert cut.status["state"] == "preempted" and cut.status["batch"] == 20, cut.output
    again = runs("cut", *evaluating)
    row.same_run(again, whole)
    assert row.lost == 0
    assert [step["batch"] for step in again.steps if "metrics/eval/loss" in step] == [20, 40, 50]


@pytest.mark.slow
@pytest.mark.fault("SIGTERM during the first step", "it is completed and saved, compilation and all")
def test_sigterm_during_the_first_step(whole: Finished, runs: Runs, row: Row) -> None:
    sleeping = ("callbacks.sleep_at.batch=0", "callbacks.sleep_at.seconds=3")
    compiled = ("speed.compile=true",) if shutil.which("g++") else ()
    notify = to_rank(1, signal.SIGTERM, announced("sleeping before step 0"))
    preempted_and_resumed(runs, row, whole, notify, *sleeping, *compiled)
    assert row.lost == 0


@pytest.mark.slow
@pytest.mark.fault("SIGTERM while starting", "the ranks leave before the first step")
def test_sigterm_while_starting(whole: Finished, runs: Runs, row: Row) -> None:
    preempted_and_resumed(runs, row, whole, to_rank(0, signal.SIGTERM, seconds_later(2)))
    assert row.lost == 0


def saving() -> Moment:
    """While a checkpoint is half-written."""

    def moment(run_folder: Path, log: Path) -> bool:
        folders = list((run_folder / "checkpoints").glob("ep*-ba*"))
        return any(not (folder / "complete.json").exists() for folder in folders)

    return moment


def seconds_later(seconds: float) -> Moment:
    """So long after the first look."""
    began: list[float] = []

    def moment(run_folder: Path, log: Path) -> bool:
        began.append(time.monotonic())
        return began[-1] - began[0] > seconds

    return moment
