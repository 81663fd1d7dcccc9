"""The heartbeat's file."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pytest
from composer.core import Callback, State
from composer.loggers import Logger

from maws_composer.resilience.preemption import PreemptedError
from tests.callbacks.training import fit
from tests.golden_steps import BATCH


class Reader(Callback):
    """An outside watchdog, after each step and, by chance, within it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.read: list[dict] = []

    def batch_end(self, state: State, logger: Logger) -> None:
        self.read.append(json.loads(self.file.read_text()))
        assert not list(self.file.parent.glob(f"{self.file.name}.*"))


def test_the_file_says_how_far_the_run_is(tmp_path: Path) -> None:
    file = tmp_path / "signs" / "heartbeat.json"
    reader = Reader(file)
    began = time.time()
    fit(tmp_path / "run", {"heartbeat": {"file": str(file), "seconds": 0}}, 3, more=[reader])
    assert [(sign["batch"], sign["samples"], sign["doing"]) for sign in reader.read] == [
        (batch, batch * BATCH, "batch_end") for batch in (1, 2, 3)
    ]
    assert json.loads(file.read_text())["doing"] == "finished"
    assert began - 1 <= file.stat().st_mtime <= time.time()


def test_it_is_written_no_more_often_than_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "heartbeat.json"
    reader = Reader(file)
    fit(tmp_path / "run", {"heartbeat": {"file": str(file), "seconds": 1000}}, 3, more=[reader])
    assert [sign["batch"] for sign in reader.read] == [0, 0, 0]  # the first event's
    assert json.loads(file.read_text()) | {"time": ""} == {
        "time": "", "batch": 3, "samples": 3 * BATCH, "doing": "finished",
    }  # fmt: skip


def test_a_run_that_leaves_says_that_it_has_not_finished(tmp_path: Path) -> None:
    class Leave(Callback):
        def batch_end(self, state: State, logger: Logger) -> None:
            raise PreemptedError

    file = tmp_path / "heartbeat.json"
    with pytest.raises(PreemptedError):
        fit(tmp_path / "run", {"heartbeat": {"file": str(file)}}, 3, more=[Leave()])
    assert json.loads(file.read_text())["doing"] == "left"


def test_a_disk_that_refuses_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "taken").touch()
    with caplog.at_level(logging.WARNING):
        steps = fit(tmp_path / "run", {"heartbeat": {"file": f"{tmp_path}/taken/file", "seconds": 0}}, 3).steps
    assert len(steps) == 3
    assert caplog.text.count("no heartbeat in") == 1
