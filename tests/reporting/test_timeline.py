"""The bars of a run's starts."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from maws_composer.reporting.run_data import read_run
from maws_composer.reporting.timeline import timeline

BEGAN = "2026-11-20T08:00:00+00:00"


@pytest.mark.parametrize("has_clock", [True, False])
def test_the_axis_of_a_run_of_seconds_is_as_short(tmp_path: Path, has_clock: bool) -> None:
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for batch in range(1, 21):
            step = {"batch": batch, "samples": 16 * batch, "loss": 1.0, "world_size": 1, "run/start": 1}
            file.write(json.dumps({**step, "run/wall_hours": (10 + batch) / 3600}) + "\n")
    if has_clock:
        (tmp_path / "starts.jsonl").write_text(json.dumps({"start": 1, "time": BEGAN, "wall_hours": 0.0}) + "\n")
    plot = timeline(read_run(tmp_path))
    assert plot is not None
    begin, end = plot.figure.layout.xaxis.range
    if has_clock:
        zero = datetime.fromisoformat(BEGAN).replace(tzinfo=None)
        begin, end = ((datetime.fromisoformat(each) - zero).total_seconds() / 3600 for each in (begin, end))
    assert begin <= 11 / 3600 and end >= 30 / 3600
    assert end - begin < 60 / 3600
