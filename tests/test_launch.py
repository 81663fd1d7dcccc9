"""`maws-composer launch`: a notice at any moment is a saved run, and the exit code says what to do next."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from maws_composer.resilience.notice import ONE_NOTICE
from maws_composer.resilience.outcome import LOST, told
from tests.moments import after_steps, to_launcher
from tests.processes import ROOT
from tests.runs import Finished, Runs, steps_done, wait_until

LAUNCH = ("maws_composer.cli", "launch")
SLOW = pytest.mark.slow
RANK = ROOT / "tests/launched.py"  # a rank without training: listens, says so, and waits


@pytest.fixture
def launch(tmp_path: Path, images: Path) -> Runs:
    return Runs(tmp_path, images, launcher=LAUNCH)


def below(launcher: int) -> list[psutil.Process]:
    """Composer's launcher, then its ranks."""
    return psutil.Process(launcher).children(recursive=True)


def ranks(launcher: int) -> list[psutil.Process]:
    found = []
    for process in below(launcher):
        with suppress(psutil.NoSuchProcess):  # what the launcher started is soon over, but for its ranks
            if "LOCAL_RANK" in process.environ():
                found.append(process)
    return found


def last_lines(finished: Finished, count: int) -> list[str]:
    return [line for line in finished.output.splitlines() if line][-count:]


def test_a_notice_in_training_saves_and_the_same_command_finishes(launch: Runs) -> None:
    cut = launch("run", processes=2, notify=to_launcher(signal.SIGTERM, after_steps(7)))
    assert cut.code == 75, cut.output
    assert cut.status["state"] == "preempted" and 7 <= len(cut.losses) < 50
    assert last_lines(cut, 1) == ["launch: left after a notice; the same command, started again, goes on with the run"]
    again = launch("run")
    assert again.code == 0, again.output
    assert again.status["state"] == "finished" and [step["batch"] for step in again.steps] == [*range(1, 51)]


@pytest.mark.parametrize("ready", [pytest.param("launch", marks=SLOW), pytest.param("composer", marks=SLOW), "rank"])
def test_a_notice_is_not_lost_while_ranks_start(launch: Runs, ready: str) -> None:
    def notify(launcher: int, run_folder: Path, log: Path) -> bool:
        there = {"launch": blocks_signals, "composer": below, "rank": ranks}[ready](launcher)
        if there:
            os.kill(launcher, signal.SIGTERM)
        return bool(there)

    cut = launch("run", notify=notify)
    assert cut.code == 75, cut.output
    assert cut.status["state"] == "preempted" and steps_done(cut.folder) == 0


@pytest.mark.slow
def test_a_notice_ends_the_wait_for_storage_that_is_away_at_the_start(images: Path, tmp_path: Path) -> None:
    nowhere = {"S3_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    waiting = "looking at the data and at save_folder"
    noticed_at: list[float] = []

    def notify(launcher: int, run_folder: Path, log: Path) -> bool:
        if waiting in log.read_text():
            os.kill(launcher, signal.SIGTERM)
            noticed_at.append(time.monotonic())
        return bool(noticed_at)

    launch = Runs(tmp_path, images, nowhere, launcher=LAUNCH)
    cut = launch("run", "save_folder=s3://bucket/run", f"speed.scratch_folder={tmp_path}", notify=notify)
    assert cut.code == 75, cut.output
    assert time.monotonic() - noticed_at[0] < 25 and f"{waiting}: given up" in cut.output


def blocks_signals(launcher: int) -> bool:
    """Looked at without a pause: Linux shows as unblocked what `launch` waits for, once it does."""
    while not below(launcher):
        status = Path(f"/proc/{launcher}/status").read_text().splitlines()
        line = next(line for line in status if line.startswith("SigBlk"))
        if int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1:
            return True
    return True


def test_a_refused_configuration_is_code_2(launch: Runs) -> None:
    refused = launch("run", "modell.size=vit_b")
    assert refused.code == 2
    assert "modell  unknown key; nearest is model" in refused.output
    assert last_lines(refused, 1)[0].startswith("launch: refused")


@pytest.mark.slow
def test_what_failed_first_is_said_last(launch: Runs) -> None:
    diverged = launch("run", "optimizer.base_lr=1e30", "gradient_clip=null", processes=2)
    assert diverged.code == 1
    failure, advice = last_lines(diverged, 2)
    assert "failed: DivergedError: the loss is nan at batch" in failure
    assert advice.startswith("launch: failed, see above; once that is put right, the same command goes on")


@pytest.mark.parametrize(
    ("processes", "said"),
    [
        (2, "a rank, a node or storage, see above"),
        pytest.param(1, "a rank: killed, for memory perhaps", marks=SLOW),
    ],
)
def test_a_rank_killed_without_a_word_is_a_reason_to_start_again(launch: Runs, processes: int, said: str) -> None:
    def kill(launcher: int, run_folder: Path, log: Path) -> bool:
        if steps_done(run_folder) < 7:
            return False
        psutil.Process(launcher).children()[0].children()[-1].kill()
        return True

    cut = launch("run", "max_duration=1_000_000sp", processes=processes, notify=kill)
    assert cut.code == 75, cut.output
    assert last_lines(cut, 1)[0].startswith(f"launch: lost {said}; start it again")


@pytest.mark.parametrize(
    ("state", "has_stepped", "code"),
    [
        (LOST, True, 75),
        (LOST, False, 1),
        ("failed", True, 1),
        *(pytest.param(*each, marks=SLOW) for each in (("preempted", False, 75), (None, True, 1))),
    ],
)
def test_only_a_start_that_got_somewhere_is_repeated_after_a_loss(
    tmp_path: Path, state: str | None, has_stepped: bool, code: int
) -> None:
    script = tmp_path / "rank.py"
    script.write_text(
        "from maws_composer.resilience.outcome import tell_failure, tell_launcher, tell_step\n"
        f"{has_stepped} and tell_step()\n"
        f"{state!r} and tell_launcher({state!r})\n"
        "tell_failure(0, 'host', 'what happened')\n"
        "raise SystemExit(1)\n"
    )
    command = [sys.executable, "-m", *LAUNCH, "-n", "1", str(script)]
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False)
    assert ended.returncode == code, ended.stderr.decode()


def test_of_several_failures_the_earliest_is_said(tmp_path: Path) -> None:
    for moment, rank in enumerate([3, 0, 1]):
        file = tmp_path / f"failure-rank{rank}.txt"
        file.write_text(f"rank {rank} failed")
        os.utime(file, ns=(moment, moment))
    assert told(tmp_path) == (None, "rank 3 failed", False)


@SLOW
@pytest.mark.parametrize("victim", ["launch", "composer"])
def test_ranks_save_and_leave_when_what_started_them_is_killed(launch: Runs, victim: str) -> None:
    left: list[psutil.Process] = []

    def notify(launcher: int, run_folder: Path, log: Path) -> bool:
        if steps_done(run_folder) < 7:
            return False
        left.extend(below(launcher))
        os.kill(launcher if victim == "launch" else left[0].pid, signal.SIGKILL)
        return True

    cut = launch("run", "max_duration=1_000_000sp", processes=2, notify=notify)
    _, alive = psutil.wait_procs(left, timeout=60)
    assert not alive
    assert cut.code == (-signal.SIGKILL if victim == "launch" else 75), cut.output
    assert cut.status["state"] == "preempted"


@SLOW
def test_composers_launcher_alone_gives_its_ranks_half_a_minute(runs: Runs) -> None:
    cut = runs("run", processes=2, notify=to_launcher(signal.SIGTERM, after_steps(7)))
    assert cut.code == 0 and "Waiting up to 30 seconds" in cut.output
    assert cut.status["state"] == "preempted"


class Launched:
    """`launch` of ranks that only listen."""

    def __init__(self, folder: Path, *behavior: str, before: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [*before, sys.executable, "-m", *LAUNCH, "-n", "2", str(RANK), str(folder), *behavior],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def wait_until_ranks_listen(self) -> None:
        wait_until(lambda: len(list(self.folder.glob("listens-*"))) == 2, self.process, 60)


@SLOW
def test_the_same_signal_again_ends_all_at_once(tmp_path: Path) -> None:
    launched = Launched(tmp_path, "never leaves")
    launched.wait_until_ranks_listen()
    everybody = below(launched.process.pid)
    assert len(everybody) == 3
    launched.process.terminate()
    time.sleep(ONE_NOTICE + 0.5)
    assert all(process.is_running() for process in everybody)
    launched.process.terminate()
    assert launched.process.wait(10) == 75
    assert not any(process.is_running() for process in everybody)


@SLOW
def test_what_ranks_leave_behind_is_ended(tmp_path: Path) -> None:
    launched = Launched(tmp_path, "leaves a child")
    assert launched.process.wait(60) == 0
    children = [int(file.read_text()) for file in tmp_path.glob("child-*")]
    assert len(children) == 2 and not any(psutil.pid_exists(child) for child in children)


@SLOW
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root for a namespace of processes")
def test_it_can_be_process_1_of_a_container(tmp_path: Path) -> None:
    launched = Launched(tmp_path, before=("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"))
    launched.wait_until_ranks_listen()
    (first,) = psutil.Process(launched.process.pid).children()
    first.send_signal(signal.SIGTERM)
    assert launched.process.wait(60) == 75
    assert {file.read_text() for file in tmp_path.glob("heard-*")} == {"SIGTERM"}
