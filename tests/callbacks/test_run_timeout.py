"""A start that ends in time."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest
from composer.core import Callback, State
from composer.loggers import Logger

from maws_composer.reporting.metrics_file import read_metrics
from maws_composer.resilience import notice
from maws_composer.resilience.preemption import PreemptedError
from tests.callbacks.training import fit
from tests.runs import Runs


class Slow(Callback):
    def batch_start(self, state: State, logger: Logger) -> None:
        time.sleep(0.3)


def test_it_leaves_after_a_step_once_the_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notice, "_notice", None)
    until = time.time() + 8
    hours = (until - psutil.Process().create_time()) / 3600
    with pytest.raises(PreemptedError):
        fit(tmp_path, {"run_timeout": {"hours": hours}}, 50, more=[Slow()])
    assert until <= time.time()
    assert 1 <= len(read_metrics(tmp_path)) < 50
    heard = notice.notice()
    assert heard is not None and heard.reason.startswith("callbacks.run_timeout.hours=")


@pytest.mark.slow
def test_what_was_done_is_saved_and_the_run_counts_as_preempted(runs: Runs) -> None:
    seconds = ("callbacks.run_timeout.hours=0.01", "max_duration=160000sp")
    left = runs("run", *seconds, processes=2)
    assert left.code == 0, left.output
    assert left.status["state"] == "preempted" and left.status["batch"] > 0
    assert (left.folder / "checkpoints" / f"ep{left.status['batch'] // 32}-ba{left.status['batch']}").exists()
