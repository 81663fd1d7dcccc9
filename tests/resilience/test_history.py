"""What a run has cost goes on through kills and notices, and counts what was lost."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch.distributed as dist
from composer.core import Timestamp
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from maws_composer.checkpoints.run_folder import RunFolder
from maws_composer.parallel.leave import leave_process_group
from maws_composer.resilience.history import Numbers, RunHistory
from maws_composer.resilience.outcome import FOLDER, told
from maws_composer.resilience.status import status_of
from tests.moments import after_steps, to_rank
from tests.runs import Finished, Runs, kill_session, steps_done
from tests.s3_server import S3Server, rclone


@pytest.mark.slow
def test_numbers_go_on_through_a_kill_and_a_notice(runs: Runs, images: Path) -> None:
    logging = ("loggers.tensorboard={}", f"data.eval.local={images}", "eval_interval=10ba")
    seconds = []

    def start(**how) -> Finished:
        began = time.monotonic()
        finished = runs("often", *logging, **how)
        seconds.append(time.monotonic() - began)
        return finished

    start(processes=2, kill_after=17)
    done = steps_done(runs.folder / "often") - 1  # one more line for the evaluation
    start(notify=to_rank(0, signal.SIGTERM, after_steps(done + 10)))
    ending = start(processes=2)
    assert ending.code == 0, ending.output

    lost, left = done - 10, ending.status
    assert (left["state"], left["start"], left["preemptions"], left["lost_steps"]) == ("finished", 3, 1, lost)
    assert left["batch"] == 50 and left["samples"] == 800 and left["world_size"] == 2
    assert 0 < left["lost_seconds"] < seconds[0]
    first, second, third = (each / 3600 for each in seconds)
    assert 0.5 * (first + second + third) < left["wall_hours"] < first + second + third
    assert 0.5 * (2 * first + second + 2 * third) < left["gpu_hours"] < 2 * first + second + 2 * third

    steps = ending.steps
    starts = [step["run/start"] for step in steps]
    assert starts[:10] == [1] * 10 and starts == sorted(starts) and set(starts) == {1, 2, 3}
    assert [step["run/lost_steps"] for step in steps if "run/lost_steps" in step] == [0, lost, lost]
    assert all(step["run/seconds_to_first_step"] > 0 for step in steps if "run/seconds_to_first_step" in step)
    hours = [step["run/gpu_hours"] for step in steps]
    assert hours == sorted(hours)
    assert logged_steps(ending.folder, "loss/train/total") == [*range(1, 51)]
    assert logged_steps(ending.folder, "metrics/eval/loss") == [10, 20, 30, 40, 50]


@pytest.mark.slow
def test_a_start_says_from_where_it_goes_on_and_what_was_lost(runs: Runs) -> None:
    runs("told", processes=2, kill_after=17)
    done = steps_done(runs.folder / "told")
    (runs.folder / "told" / "status.json").unlink()  # the checkpoint and metrics.jsonl know the same
    again = runs("told", kill_after=done + 1)
    assert f"resumed ep0-ba10 at batch 10, sample 160 of 800, on 1 process, saved on 2; to do again: {done - 10} s" in (
        again.output
    )
    assert "; start 2, 0.0" in again.output


@pytest.mark.slow
@pytest.mark.skipif(rclone() is None, reason="rclone, of the extra `dev`, is not installed")
def test_what_was_lost_with_the_machine_counts(images: Path, tmp_path: Path) -> None:
    with S3Server(tmp_path / "s3") as server:
        stored = server.bucket("bucket") / "run" / "status.json"
        runs = Runs(tmp_path, images, server.environment)
        remote = ("save_folder=s3://bucket/run", "code_paths=[tests/plugins]")
        slow = ("callbacks.sleep_at.batch=19", "callbacks.sleep_at.seconds=200")  # until the status has been written

        def kill(launcher: int, run_folder: Path, log: Path) -> bool:
            with suppress(FileNotFoundError, json.JSONDecodeError):
                if json.loads(stored.read_text())["batch"] >= 18:
                    kill_session(launcher)
                    return True
            return False

        runs("remote", *remote, *slow, f"speed.scratch_folder={tmp_path / 'one'}", notify=kill)
        at = json.loads(stored.read_text())["batch"]
        shutil.rmtree(tmp_path / "one")
        server.stop()
        server.start()
        again = runs("remote", *remote, f"speed.scratch_folder={tmp_path / 'two'}")
        assert again.code == 0, again.output
        assert f"to do again: {at - 10} steps" in again.output


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield RunFolder(str(tmp_path), tmp_path)
    leave_process_group()


def record(folder: RunFolder) -> dict:
    return json.loads((folder.local / "status.json").read_text())


class At:
    """As much of Composer's state as numbers are taken from."""

    max_duration = None

    def __init__(self, batch: int) -> None:
        self.timestamp = Timestamp(batch=batch, sample=16 * batch)


def train_until(history: RunHistory, first: int, last: int) -> None:
    class Silent:
        def log_metrics(self, metrics: dict) -> None:
            pass

    history.after_load(At(first), Silent())  # type: ignore[arg-type]
    for batch in range(first + 1, last + 1):
        history.batch_end(At(batch), Silent())  # type: ignore[arg-type]


def test_a_running_status_has_the_current_step(folder: RunFolder) -> None:
    with status_of(folder) as history:
        train_until(history, 0, 30)
        assert record(folder)["batch"] == 0
        until = time.monotonic() + 10
        while record(folder)["batch"] != 30 and time.monotonic() < until:
            time.sleep(0.05)
        assert record(folder)["state"] == "running" and record(folder)["batch"] == 30


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"start": "two", "batch": null}', '{"batch": 4}'])
def test_a_start_goes_on_from_any_status_that_lies_there(folder: RunFolder, text: str) -> None:
    (folder.local / "status.json").write_text(text)
    with status_of(folder) as history:
        train_until(history, 0, 3)
    assert record(folder)["start"] == 1 and record(folder)["batch"] == 3


def test_a_clock_gone_back_does_not_hide_a_failure(folder: RunFolder) -> None:
    later = {"state": "failed", "reason": "an earlier one", "start": 1, "time": "2999-01-01T00:00:00+00:00"}
    (folder.local / "status.json").write_text(json.dumps(later))
    with pytest.raises(ValueError), status_of(folder):
        raise ValueError("the new one")
    assert record(folder)["reason"] == "ValueError: the new one" and record(folder)["start"] == 2


def test_the_reason_of_the_rank_that_failed_first_stays(folder: RunFolder) -> None:
    with pytest.raises(RuntimeError), status_of(folder) as history:
        first = {"state": "failed", "reason": "the cause", "start": history.numbers.start}
        (folder.local / "status.json").write_text(json.dumps(first))
        time.sleep(1.5)  # the status is not kept up over it
        raise RuntimeError("another rank is gone")
    assert record(folder)["reason"] == "the cause"


def test_lost_work_counts_once_although_starts_fail_before_they_step(folder: RunFolder) -> None:
    with suppress(RuntimeError), status_of(folder) as history:
        train_until(history, 0, 37)
        raise RuntimeError
    for first in (30, 30, None, 30):
        with suppress(RuntimeError), status_of(folder) as history:
            if first is not None:
                train_until(history, first, first)
            raise RuntimeError
    assert record(folder)["lost_steps"] == 7 and record(folder)["start"] == 5


def logged_steps(folder: Path, tag: str) -> list[int]:
    events = EventAccumulator(str(folder / "tensorboard" / folder.name), size_guidance={"scalars": 0})
    events.Reload()
    return [event.step for event in events.Scalars(tag)]


def test_ten_starts_in_a_row_that_get_no_further_than_one_checkpoint_are_no_reason_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))
    numbers, worth_another = Numbers(), []
    for begun_at in [0] + 12 * [10] + 2 * [20]:
        history = RunHistory(numbers)
        train_until(history, begun_at, begun_at + 15)
        worth_another.append(told(tmp_path).has_stepped)
        (tmp_path / "stepped").unlink(missing_ok=True)
        numbers = history.numbers
    assert worth_another == [True] + 10 * [True] + 2 * [False] + 2 * [True]
