"""A notice, to any rank at any moment: what was done is saved, and the same command goes on with the same run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from random import Random

import pytest
from numpy.testing import assert_allclose

from maws_composer.resilience.notice import ONE_NOTICE
from tests.moments import after_steps, to_rank
from tests.runs import Finished, Runs, ranks, session, steps_done
from tests.s3_server import S3Server, rclone


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Finished:
    """50 steps with two evaluations, not interrupted."""
    finished = Runs(tmp_path_factory.mktemp("whole"), images)("whole", *evaluating(images))
    assert finished.code == 0, finished.output
    assert finished.status["state"] == "finished" and finished.status["batch"] == 50
    return finished


def evaluating(images: Path) -> tuple[str, ...]:
    return (f"data.eval.local={images}", "eval_interval=20ba", "speed.device_eval_batch_size=8", "save_interval=100ba")


def evaluations(finished: Finished) -> dict[int, float]:
    return {step["batch"]: step["metrics/eval/loss"] for step in finished.steps if "metrics/eval/loss" in step}


def same_run(finished: Finished, whole: Finished) -> None:
    assert finished.code == 0, finished.output
    assert finished.status["state"] == "finished"
    assert_allclose(finished.losses, whole.losses, rtol=1e-5)
    assert evaluations(finished).keys() == evaluations(whole).keys()
    assert_allclose([*evaluations(finished).values()], [*evaluations(whole).values()], rtol=1e-5)


@pytest.mark.slow
def test_a_notice_to_every_process_spares_the_loaders_workers(whole: Finished, runs: Runs, images: Path) -> None:
    def everybody(launcher: int, run_folder: Path, log: Path) -> bool:
        if steps_done(run_folder) < 6:
            return False
        workers = [process for process in session(launcher) if process not in (launcher, *ranks(launcher))]
        assert workers
        for process in [*ranks(launcher), *workers]:
            os.kill(process, signal.SIGTERM)
        return True

    # The step is long, so that the workers end later than a repeated signal would count as a second one.
    slow = ("code_paths=[tests/plugins]", "callbacks.sleep_at.batch=6", f"callbacks.sleep_at.seconds={ONE_NOTICE + 2}")
    cut = runs("all", *evaluating(images), *slow, "speed.workers=1", notify=everybody)
    assert cut.code == 0, cut.output
    assert cut.status["state"] == "preempted"
    same_run(runs("all", *evaluating(images)), whole)


@pytest.mark.slow
def test_a_notice_during_an_evaluation_has_it_made_up_for(whole: Finished, runs: Runs, images: Path) -> None:
    cut = runs("evaluation", *evaluating(images), processes=2, notify=to_rank(0, signal.SIGTERM, after_steps(20)))
    assert cut.code == 0, cut.output
    left = {"state": "preempted", "reason": None, "batch": 20, "samples": 320, "world_size": 2, "preemptions": 1}
    assert left.items() <= cut.status.items()
    assert not evaluations(cut)
    same_run(runs("evaluation", *evaluating(images)), whole)


@pytest.mark.slow
def test_a_notice_in_the_last_evaluation_has_it_made_up_for(runs: Runs, images: Path) -> None:
    short = (*evaluating(images), "max_duration=320sp")
    cut = runs("last", *short, notify=to_rank(0, signal.SIGTERM, after_steps(20)))
    assert cut.code == 0, cut.output
    assert cut.status["state"] == "preempted" and not evaluations(cut)
    again = runs("last", *short)
    assert again.code == 0, again.output
    assert again.status["state"] == "finished" and evaluations(again).keys() == {20}
    assert "is complete already" in runs("last", *short).output


@pytest.mark.slow
def test_a_notice_while_starting_leaves_before_the_first_step(runs: Runs, images: Path) -> None:
    def while_importing(launcher: int, run_folder: Path, log: Path) -> bool:
        if not ranks(launcher):
            return False
        time.sleep(2)
        os.kill(ranks(launcher)[0], signal.SIGTERM)
        return True

    cut = runs("starting", *evaluating(images), processes=2, notify=while_importing)
    assert cut.code == 0, cut.output
    assert cut.status["state"] == "preempted" and cut.status["batch"] == 0
    assert not any((cut.folder / "checkpoints").iterdir())


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_notice_at_twenty_moments_of_the_start_costs_nothing(whole: Finished, runs: Runs, images: Path) -> None:
    random, since_ranks = Random(0), {"took": 0.0}

    def first_step(launcher: int, run_folder: Path, log: Path) -> bool:
        if not ranks(launcher):
            since_ranks["began"] = time.monotonic()
        since_ranks["took"] = time.monotonic() - since_ranks.get("began", time.monotonic())
        return to_rank(0, signal.SIGTERM, after_steps(1))(launcher, run_folder, log)

    runs("moments", *evaluating(images), processes=2, notify=first_step)
    for moment in sorted(random.uniform(0, 1.1 * since_ranks["took"]) for _ in range(20)):

        def later(launcher: int, run_folder: Path, log: Path, moment: float = moment) -> bool:
            if len(ranks(launcher)) < 2:
                return False
            until, before = time.monotonic() + moment, steps_done(run_folder)
            while time.monotonic() < until and steps_done(run_folder) < before + 2:  # some starts are quicker
                time.sleep(0.01)
            os.kill(ranks(launcher)[random.randrange(2)], signal.SIGTERM)
            return True

        cut = runs("moments", *evaluating(images), processes=2, notify=later)
        # A Python that has not begun to read train.py cannot hear yet; it has not touched anything either.
        assert cut.code == 0 or "notice" not in cut.output, (moment, cut.output)
        assert cut.status["state"] == "preempted", (moment, cut.output)
    same_run(runs("moments", *evaluating(images)), whole)


@pytest.mark.slow
def test_a_second_signal_ends_at_once_and_breaks_nothing(whole: Finished, runs: Runs, images: Path) -> None:
    def twice(launcher: int, run_folder: Path, log: Path) -> bool:
        if steps_done(run_folder) < 12:
            return False
        for pause in (ONE_NOTICE + 0.5, 0):
            os.kill(ranks(launcher)[0], signal.SIGTERM)
            time.sleep(pause)
        return True

    saving = (*evaluating(images), "save_interval=10ba")
    hanging = ("code_paths=[tests/plugins]", "callbacks.sleep_at.batch=12", "callbacks.sleep_at.seconds=200")
    cut = runs("twice", *saving, *hanging, notify=twice, timeout=120)
    assert cut.code != 0
    assert "SIGTERM, the second; leaving at once" in cut.output
    again = runs("twice", *saving)
    assert "ep0-ba10 at batch 10, sample 160" in again.output
    same_run(again, whole)


@pytest.mark.slow
def test_a_command_gives_notice(runs: Runs, images: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken away"

    def create(launcher: int, run_folder: Path, log: Path) -> bool:
        if steps_done(run_folder) >= 5:
            taken.touch()
        return taken.exists()

    asked = (f"preemption.command=test -e '{taken}'", "preemption.every=0.2", "max_duration=1_000_000sp")
    cut = runs("asked", *evaluating(images), *asked, notify=create)
    assert cut.code == 0, cut.output
    assert cut.status["state"] == "preempted" and "notice: test -e" in cut.output


@pytest.mark.slow
@pytest.mark.skipif(rclone() is None, reason="rclone, of the extra `dev`, is not installed")
def test_what_is_saved_at_a_notice_reaches_object_storage(whole: Finished, images: Path, tmp_path: Path) -> None:
    with S3Server(tmp_path / "s3") as server:
        stored = server.bucket("bucket") / "run"
        runs = Runs(tmp_path, images, server.environment)
        remote = ("save_folder=s3://bucket/run", f"speed.scratch_folder={tmp_path / 'one'}")

        def notify(launcher: int, run_folder: Path, log: Path) -> bool:
            return to_rank(0, signal.SIGTERM, after_steps(23))(
                launcher, next((tmp_path / "one/runs").glob("*"), tmp_path), log
            )

        cut = runs("remote", *evaluating(images), *remote, notify=notify)
        assert cut.code == 0, cut.output
        assert json.loads((stored / "status.json").read_text())["state"] == "preempted"
        shutil.rmtree(tmp_path / "one")
        again = runs("remote", *evaluating(images), *remote)
        same_run(Finished(again.code, again.output, stored), whole)


def test_a_run_that_fails_says_why(runs: Runs) -> None:
    diverged = runs("diverged", "optimizer.base_lr=1e30", "gradient_clip=null", processes=2)
    assert diverged.code != 0
    assert diverged.status["state"] == "failed"
    assert diverged.status["reason"].startswith("DivergedError: the loss is nan at batch")
