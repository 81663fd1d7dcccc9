"""The command is not the same any more."""

from __future__ import annotations

import json

import pytest

from tests.faults.matrix import Row
from tests.runs import Finished, Runs


@pytest.mark.slow
@pytest.mark.fault("a key changed that has no effect on results (`speed.workers`, `save_interval`)", "goes on")
def test_harmless_key(whole: Finished, runs: Runs, row: Row) -> None:
    runs("cut", *row.recording, kill_after=15)
    row.same_run(runs("cut", *row.recording, "speed.workers=1", "save_interval=7ba"), whole)


@pytest.mark.fault("a key changed that has one (`optimizer.base_lr`)", "refused, by name, unless told otherwise")
@pytest.mark.slow
def test_harmful_key(whole: Finished, runs: Runs, row: Row) -> None:
    runs("cut", *row.recording, kill_after=15)
    kept = (runs.folder / "cut" / "config.yaml").read_text()
    refused = runs("cut", *row.recording, "optimizer.base_lr=0.03", "speed.workers=1", processes=2)
    row.error(refused, "optimizer.base_lr  was 0.02 when ep0-ba10 was saved, is now 0.03")
    assert refused.code == 2 and refused.output.count(row.told) == 1 and "speed.workers" not in refused.output
    assert (refused.folder / "config.yaml").read_text() == kept
    row.same_run(runs("cut", *row.recording), whole)


@pytest.mark.slow
@pytest.mark.fault("a checkpoint of another version of torch", "goes on, and says so")
def test_other_versions(whole: Finished, runs: Runs, row: Row) -> None:
    cut = runs("cut", *row.recording, kill_after_saving=30)
    for marker in cut.folder.glob("checkpoints/*/complete.json"):
        marker.write_text(json.dumps(json.loads(marker.read_text()) | {"torch": "2.6.0"}))
    again = runs("cut", *row.recording)
    assert "was saved with torch 2.6.0 (now" in again.output
    row.same_run(again, whole)
