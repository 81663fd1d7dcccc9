"""No notice is given: what was done since the last checkpoint is done again."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests.faults.matrix import SAVE_INTERVAL, Row
from tests.moments import Moment, after_steps, to_all, to_launcher, to_rank
from tests.runs import Finished, Runs, steps_done

WITHIN = 60.0  # seconds: that a dead rank may keep the others waiting


@pytest.mark.fault("SIGKILL of one rank", "the others are ended within a minute; the newest checkpoint is taken")
def test_sigkill_of_one_rank(whole: Finished, runs: Runs, row: Row) -> None:
    killed: list[float] = []
    kill = to_rank(1, signal.SIGKILL, after_steps(15))

    def notify(launcher: int, run_folder: Path, log: Path) -> bool:
        killed.append(time.monotonic())
        return kill(launcher, run_folder, log)

    cut = runs("cut", *row.recording, processes=2, notify=notify)
    assert cut.code != 0 and time.monotonic() - killed[-1] < WITHIN
    row.same_run(runs("cut", *row.recording), whole)
    assert 0 < row.lost <= SAVE_INTERVAL


@pytest.mark.slow
@pytest.mark.fault("SIGKILL of everything", "the newest checkpoint is taken")
def test_sigkill_of_all(whole: Finished, runs: Runs, row: Row) -> None:
    runs("cut", *row.recording, processes=2, notify=to_all(signal.SIGKILL, after_steps(15)))
    row.same_run(runs("cut", *row.recording, processes=2), whole)
    assert 0 < row.lost <= SAVE_INTERVAL


@pytest.mark.slow
@pytest.mark.fault("SIGKILL of the launcher only", "the ranks notice, save and leave")
def test_sigkill_of_the_launcher(whole: Finished, runs: Runs, row: Row) -> None:
    before = time.monotonic()
    runs("cut", *row.recording, processes=2, notify=to_launcher(signal.SIGKILL, after_steps(15)), timeout=120)
    assert time.monotonic() - before < 120, "ranks outlived their launcher"
    row.same_run(runs("cut", *row.recording), whole)
    assert row.lost == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.fault("SIGKILL of everything, 50 times at random moments, on 1 or 2 processes", "as after one kill")
def test_soak(tmp_path_factory: pytest.TempPathFactory, runs: Runs, row: Row, images: Path) -> None:
    length = ("max_duration=3200sp", "save_interval=2ba")
    uninterrupted = Row(tmp_path_factory.mktemp("longer"))
    whole = Runs(uninterrupted.folder, images)("whole", *uninterrupted.recording, *length)
    longer = (*row.recording, *length)
    chance = random.Random(0)
    for _ in range(50):
        moment = sooner_of(chance.uniform(0, 15), chance.randint(0, 3))
        runs("soak", *longer, processes=chance.choice([1, 2]), notify=to_all(signal.SIGKILL, moment))
    row.same_run(runs("soak", *longer), whole)
    assert row.lost <= 50 * 3  # two steps of an interval, and one whose checkpoint was not complete


def sooner_of(seconds: float, steps: int) -> Moment:
    """So long after the first look, or so many steps: wherever the run is by then."""
    until: list[float] = []
    before: list[int] = []

    def moment(run_folder: Path, log: Path) -> bool:
        until.append(time.monotonic() + seconds)
        before.append(steps_done(run_folder))
        return time.monotonic() > until[0] or before[-1] - before[0] > steps

    return moment
