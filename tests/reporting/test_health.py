"""What a report says of a run in plain words, and when it is worth a look."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maws_composer.reporting.health import Finding, judge, verdict
from maws_composer.reporting.run_data import read_run

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=timezone.utc)
Judge = Callable[..., dict[str, Finding]]


@pytest.fixture
def judged(tmp_path: Path) -> Judge:
    """Judges a run of 400 steps that fall, in which `change(batch)` adds to or replaces what a step says."""

    def judged(
        change: Callable[[int], dict[str, Any]] = lambda batch: {}, state: str = "running", silence: float = 10.0
    ) -> dict[str, Finding]:
        noise = np.random.default_rng(0).normal(0, 0.01, 401)
        config = {"max_duration": "1600sp", "data": {"train": {"max_bad_share": 0.01}}}
        (tmp_path / "config.yaml").write_text(json.dumps(config))
        status = {"state": state, "reason": "DivergedError: <loss>", "gpu_hours": 12.5}
        status["time"] = (NOW - timedelta(seconds=silence)).isoformat()
        (tmp_path / "status.json").write_text(json.dumps(status))
        with (tmp_path / "metrics.jsonl").open("w") as file:
            for batch in range(1, 401):
                step = {"batch": batch, "samples": 2 * batch, "loss": 1 - batch / 800 + noise[batch]}
                step |= {"seconds": 3.0 * batch, "run/start": 1, "world_size": 8}
                file.write(json.dumps(step | change(batch)) + "\n")
        findings = judge(read_run(tmp_path), NOW)
        return {finding.what: finding for finding in findings} | {"all": verdict(findings)}

    return judged


def test_a_run_that_goes_well_is_healthy(judged: Judge) -> None:
    found = judged()
    assert found["all"].what == "Healthy"
    assert {finding.mark for finding in found.values()} == {"good"}
    assert found["state"].says == "running when this page was made; 12.50 GPU-hours so far"
    assert (
        found["samples"].says == "800 of 1,600 samples (50 %) in 400 steps; about 20 min 0 s to go at the present speed"
    )
    assert found["interruptions"].says == "none: one start, on 8 processes"
    assert "falling" in found["loss"].says


@pytest.mark.parametrize(
    ("state", "silence", "mark", "says"),
    [
        ("finished", 9e5, "good", "finished"),
        ("preempted", 9e5, "look", "the same command goes on"),
        ("failed", 9e5, "bad", "failed: DivergedError: <loss>"),
        ("running", 7200.0, "look", "said that it was running 2 h 0 min before this page was made"),
    ],
)
def test_how_a_run_ended_is_said(judged: Judge, state: str, silence: float, mark: str, says: str) -> None:
    found = judged(state=state, silence=silence)
    assert found["state"].mark == found["all"].mark == mark
    assert says in found["state"].says


def test_the_page_that_a_run_writes_last_does_not_call_it_running(judged: Judge) -> None:
    assert (
        judged(lambda batch: {"samples": 4 * batch})["state"].says == "trained on all samples; 12.50 GPU-hours so far"
    )


@pytest.mark.parametrize(
    ("what", "change", "mark", "says"),
    [
        ("loss", lambda batch: {"loss": 0.5 + batch / 400}, "look", "rising"),
        ("loss", lambda batch: {"loss": 0.5 + 0.001 * (batch % 7)}, "good", "level"),
        ("loss", lambda batch: {"loss": None} if batch == 400 else {}, "bad", "not finite"),
        ("loss spikes", lambda batch: {"loss": 9.0} if batch == 333 else {}, "look", "stands out: 333"),
        ("loss spikes", lambda batch: {"loss": None} if batch == 333 else {}, "look", "1 loss not finite"),
        ("loss spikes", lambda batch: {"skipped": 1} if batch < 9 else {}, "look", "8 steps left out (2 %)"),
        ("data", lambda batch: {"data/replaced_samples": 6} if batch == 9 else {}, "look", "6 samples replaced"),
        ("data", lambda batch: {"data/replaced_samples": 1} if batch == 9 else {}, "good", "1 sample replaced"),
        ("waiting for data", lambda batch: {"throughput/input_wait": 0.3}, "look", "30 % of a step; the loader"),
        ("MFU", lambda batch: {"throughput/mfu": 0.41}, "good", "41 %"),
        ("interruptions", lambda batch: {"run/start": 1 + (batch > 99), "run/lost_steps": 40}, "look", "shorter save"),
        ("interruptions", lambda batch: {"run/start": 1 + (batch > 99)}, "good", "2 starts, on 8 processes; no step"),
        ("eval loss", lambda batch: {"metrics/eval/loss": abs(batch - 200) / 100 + 1}, "look", "better, 1, after 400"),
    ],
)  # fmt: skip
def test_what_stands_out_is_said(
    judged: Judge, what: str, change: Callable[[int], dict[str, Any]], mark: str, says: str
) -> None:
    found = judged(change)
    assert (found[what].mark, says in found[what].says) == (mark, True), found[what]
    assert found["all"].mark == mark
