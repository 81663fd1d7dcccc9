"""A rank that dies, falls silent or hangs ends the run on all ranks, soon, and what is said last says which it was."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time
from contextlib import suppress
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from maws_composer.resilience.stacks import StacksOfChildren, explain
from tests.runs import Finished, Runs, steps_done
from tests.s3_server import S3Server, rclone

SILENCE = 8.0
SOON = SILENCE + 20.0  # seconds; with the default of 40, a minute

ENDLESS = ("max_duration=1_000_000sp", f"watchdog.silence={SILENCE}")


class Blow:
    """A signal to one rank, of whichever node, after some steps; and when it came."""

    def __init__(self, rank: int, each: signal.Signals) -> None:
        self.rank, self.signal = rank, each
        self.process = 0

    def __call__(self, launcher: int, run_folder: Path, log: Path) -> bool:
        if steps_done(run_folder) < 6:
            return False
        self.process = process_of(self.rank, run_folder)
        os.kill(self.process, self.signal)
        self.at = time.monotonic()
        return True


def process_of(rank: int, run_folder: Path) -> int:
    """A rank's process: the one whose parent does not have its variable."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and f"RANK={rank}" in _environment(process):
            with suppress(OSError):  # it may end meanwhile
                parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
                is_child = f"RANK={rank}" in _environment(process.with_name(parent))
                if not is_child and str(run_folder) in (process / "cmdline").read_text():
                    return int(process.name)
    raise AssertionError(f"no process of rank {rank}")


def _environment(process: Path) -> list[str]:
    try:
        return (process / "environ").read_text(errors="replace").split("\0")
    except OSError:
        return []


DEAD, SILENT = "has ended without a word", f"has not been heard of for {SILENCE:.0f} s"


@pytest.mark.parametrize(
    ("rank", "each", "nodes", "survivor", "message"),
    [
        pytest.param(1, signal.SIGKILL, 1, 0, DEAD, marks=pytest.mark.slow),
        pytest.param(1, signal.SIGKILL, 2, 0, DEAD, marks=pytest.mark.slow),
        pytest.param(0, signal.SIGKILL, 2, 1, DEAD, marks=pytest.mark.slow),
        pytest.param(1, signal.SIGSTOP, 1, 0, SILENT, marks=pytest.mark.slow),
        pytest.param(1, signal.SIGSTOP, 2, 0, SILENT, marks=pytest.mark.slow),
        pytest.param(0, signal.SIGSTOP, 2, 1, SILENT, marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_dies_or_falls_silent_ends_the_run_on_every_node(
    runs: Runs, rank: int, each: signal.Signals, nodes: int, survivor: int, message: str
) -> None:
    blow = Blow(rank, each)
    cut = runs("cut", *ENDLESS, processes=2, nodes=nodes, until_node=survivor, notify=blow)
    assert time.monotonic() - blow.at < SOON
    assert cut.code != 0
    assert cut.status["state"] == "failed"
    assert f"rank {rank} (process {blow.process} on " in cut.status["reason"] and message in cut.status["reason"]
    assert message in cut.output and "notice: SIGTERM" not in cut.output


@pytest.mark.slow
def test_a_rank_that_dies_is_missed_by_those_that_do_not_wait_for_it(runs: Runs) -> None:
    busy = ("code_paths=[tests/plugins]", "callbacks.sleep_at.batch=6", "callbacks.sleep_at.seconds=300")
    blow = Blow(1, signal.SIGKILL)
    cut = runs("cut", *ENDLESS, *busy, processes=2, nodes=2, notify=blow)
    assert time.monotonic() - blow.at < SOON
    assert cut.status["state"] == "failed" and f"process {blow.process} " in cut.status["reason"]


def test_a_hang_is_told_with_the_stacks_of_all_ranks_and_the_rank_that_hangs(runs: Runs) -> None:
    hanging = ("code_paths=[tests/plugins]", "callbacks.sleep_at.batch=6", "callbacks.sleep_at.seconds=1000")
    hanging += ("callbacks.sleep_at.rank=1", "watchdog.limit=6", "speed.workers=1")
    cut = runs("cut", *hanging, processes=2)
    assert cut.code != 0
    assert (cut.status["state"], cut.status["batch"]) == ("failed", 6)
    reason = cut.status["reason"]
    assert reason.startswith("no rank has got any further for 6 s") and reason in cut.output
    assert "in no collective, while the others wait in one: rank 1 (" in reason and "sleep_at.py:" in reason
    waiting, sleeping = ((cut.folder / "stacks" / f"rank{rank}.txt").read_text() for rank in (0, 1))
    assert "in all_reduce" in waiting and "sleep_at.py" not in waiting
    assert "sleep_at.py" in sleeping and "in all_reduce" not in sleeping
    for rank in (0, 1):
        assert "in _worker_loop" in (cut.folder / "stacks" / f"rank{rank}.workers.txt").read_text()


def _wait(began: Event) -> None:
    began.set()
    time.sleep(60)


def test_processes_that_a_rank_forks_write_their_stacks_and_programs_that_it_starts_live_on(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    stacks, began = StacksOfChildren(tmp_path / "rank0.workers.txt"), context.Event()
    forked = context.Process(target=_wait, args=(began,))
    forked.start()
    program = subprocess.Popen(["sleep", "60"])
    try:
        assert began.wait(10)
        stacks.dump(patience=5)
        assert forked.is_alive() and program.poll() is None
    finally:
        stacks.close()
        forked.kill()
        forked.join()
        program.kill()
        program.wait()
    # This process may have other children, of tests that ran before.
    written = (tmp_path / "rank0.workers.txt").read_text()
    stack_of = dict(part.split(":\n", 1) for part in written.split("\nprocess ")[1:])
    assert "in _wait\n" in stack_of[str(forked.pid)]
    assert str(program.pid) not in stack_of


@pytest.mark.slow
def test_the_first_failure_is_what_is_said_last(runs: Runs, tmp_path: Path) -> None:
    outcome = tmp_path / "outcome"
    outcome.mkdir()
    runs.environment["MAWS_COMPOSER_OUTCOME"] = str(outcome)
    failing = ("code_paths=[tests/plugins]", "callbacks.fail_at.batch=6", "callbacks.fail_at.rank=1")
    cut = runs("cut", *failing, processes=2)
    assert cut.code != 0
    assert cut.status["state"] == "failed" and cut.status["reason"] == "ValueError: a bug of this plugin"
    ends = [line for line in cut.output.splitlines() if line.startswith("rank 0 ends: rank 1 (process ")]
    assert len(ends) == 1 and ends[0].endswith(" failed: ValueError: a bug of this plugin")
    assert "notice: SIGTERM" not in cut.output and cut.output.count("Traceback") == 1
    (kept,) = outcome.glob("failure-*")
    assert not list((cut.folder / "stacks").iterdir())
    assert kept.name == "failure-rank1.txt"
    assert kept.read_text().endswith(" failed: ValueError: a bug of this plugin\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "said"),
    [
        ("1", "refuses what others do not: ConfigError: callbacks.refuse_at"),
        ("0", "refuses what others do not: ConfigError: callbacks.refuse_at"),
        ("null", "recipe.yaml has 1 problem"),
    ],
)
def test_what_ranks_refuse_ends_all_with_the_code_of_that(runs: Runs, rank: str, said: str) -> None:
    refusing = ("code_paths=[tests/plugins]", "callbacks.refuse_at.batch=6", f"callbacks.refuse_at.rank={rank}")
    cut = runs("cut", *refusing, processes=2)
    assert cut.code == 2 and said in cut.output, cut.output


@pytest.mark.slow
@pytest.mark.skipif(rclone() is None, reason="rclone, of the extra `dev`, is not installed")
def test_storage_that_is_away_is_no_hang(tmp_path: Path, images: Path) -> None:
    with S3Server(tmp_path / "s3") as server:
        stored = server.bucket("bucket") / "run"
        runs = Runs(tmp_path, images, server.environment)
        back_at = 0.0

        def outage(launcher: int, run_folder: Path, log: Path) -> bool:
            nonlocal back_at
            if not back_at and "ba5: " in log.read_text():
                server.stop()
                back_at = time.monotonic() + 25
            if not back_at or time.monotonic() < back_at:
                return False
            server.start()
            return True

        remote = ("save_folder=s3://bucket/run", f"speed.scratch_folder={tmp_path / 'one'}", "save_interval=5ba")
        done = runs("remote", *remote, "max_duration=320sp", "watchdog.limit=8", processes=2, notify=outage)
        assert done.code == 0 and "trying again" in done.output, done.output
        assert Finished(0, "", stored).status["state"] == "finished"


def test_who_hangs_is_told_where_it_can_be() -> None:
    hosts = {0: "a", 1: "a", 2: "b"}
    waits = "in a collective, called from x.py:3, in step"
    assert explain({0: waits, 1: waits, 2: "y.py:7, in read"}, hosts) == (
        "in no collective, while the others wait in one: rank 2 (b), y.py:7, in read"
    )
    assert "rank 1 (a), which does not say where it is" in explain({0: waits, 2: waits}, hosts)
    assert explain({0: waits, 1: waits, 2: waits}, hosts) == f"rank 0, 1, 2: {waits}"
