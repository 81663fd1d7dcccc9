"""A step goes wrong: its loss is not finite, or it does not end."""

from __future__ import annotations

import signal

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tests.faults.matrix import SAVE_INTERVAL, Row
from tests.moments import after_steps, to_rank
from tests.runs import Finished, Runs

NAN = ("callbacks.spoil_step.batches=[25]", "callbacks.spoil_step.factor=1e300")


@pytest.mark.fault("a loss that is infinite once, as of a faulty GPU", "the run stops before anything of it is kept")
@pytest.mark.slow
def test_nan(whole: Finished, runs: Runs, row: Row) -> None:
    stopped = runs("run", *row.recording, *NAN, processes=2)
    row.error(stopped, "the loss is inf at batch 25")
    row.same_run(runs("run", *row.recording, processes=2), whole)
    assert row.lost <= SAVE_INTERVAL


@pytest.mark.slow
@pytest.mark.fault(
    "a loss that is infinite whenever a batch is trained on, `loss_spikes.action=rewind`, SIGKILL after that",
    "back to a checkpoint, on without the batch; as if it had been left out from the start",
)
def test_nan_that_comes_again(runs: Runs, row: Row) -> None:
    rewinding = (*row.recording, *NAN, "loss_spikes={action: rewind, skip_before: 3, skip_after: 2}")
    told = runs("told", *rewinding)
    runs("cut", *rewinding, processes=2, kill_after_saving=30)
    again = runs("cut", *rewinding)
    assert again.code == told.code == 0, again.output
    assert [number for number, loss in enumerate(again.losses, 1) if loss is None] == [25]
    assert_allclose(np.array(again.losses, float), np.array(told.losses, float), rtol=1e-5)
    assert [step["batch"] for step in again.steps if step.get("skipped")] == [22, 23, 24, 25, 26, 27]


@pytest.mark.slow
@pytest.mark.fault("SIGSTOP of one rank: a machine that does not answer", "taken for dead after 40 s, the run ends")
def test_silent_rank(whole: Finished, runs: Runs, row: Row) -> None:
    silent = runs("run", *row.recording, processes=2, notify=to_rank(1, signal.SIGSTOP, after_steps(15)))
    row.error(silent, "has not been heard of for 40 s: stopped, or its machine is gone")
    row.same_run(runs("run", *row.recording), whole)
    assert row.lost <= SAVE_INTERVAL


@pytest.mark.slow
@pytest.mark.fault("a step that does not end", "after `watchdog.limit`, with the stacks of all ranks")
def test_hanging_step(whole: Finished, runs: Runs, row: Row) -> None:
    hanging = ("callbacks.sleep_at={batch: 15, seconds: 200, rank: 1}", "watchdog.limit=10")
    hung = runs("run", *row.recording, *hanging, processes=2)
    row.error(hung, "no rank has got any further for 10 s")
    assert (hung.folder / "stacks" / "rank1.txt").read_text()
    row.same_run(runs("run", *row.recording), whole)
