"""The trace of a few steps."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from maws_composer.config.problems import ConfigError
from tests.callbacks.training import fit, load


def test_the_trace_has_the_steps_that_were_asked_for(tmp_path: Path) -> None:
    profiled = fit(tmp_path / "profiled", {"profiler": {"first": 3, "steps": 2}}, 6)
    plain = fit(tmp_path / "plain", {}, 6)
    assert [step["loss"] for step in profiled.steps] == [step["loss"] for step in plain.steps]
    (file,) = (tmp_path / "profiled" / "traces").iterdir()
    assert file.name == "rank0-ba3.json.gz"
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    names = [event.get("name", "") for event in events]
    assert len({name for name in names if name.startswith("ProfilerStep")}) == 2
    optimizer_steps = [name for name in names if name.startswith("Optimizer.step")]
    assert len(optimizer_steps) == 2
    assert "aten::scaled_dot_product_attention" in names


def test_a_run_that_ends_before_it_is_no_worse(tmp_path: Path) -> None:
    assert len(fit(tmp_path, {"profiler": {"first": 20}}, 2).steps) == 2
    assert not (tmp_path / "traces").exists()
    with pytest.raises(ConfigError, match="first"):
        load(tmp_path, {"profiler": {"first": 1}})
