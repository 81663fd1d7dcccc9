"""Memory, of the rank that has most: against what the kernel says in the same step, as it takes pages back later."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.callbacks.training import TRAINING, fit
from tests.processes import run_ranks

PLUGINS = "code_paths=[tests/plugins]"


def test_host_memory_is_what_the_process_takes(tmp_path: Path) -> None:
    hoard = {"batch": 3, "mebibytes": 1024}
    steps = fit(tmp_path, {"hoard": hoard, "memory": {"every": "2ba"}}, 6, PLUGINS).steps
    logged = [step for step in steps if "memory/rss_gib" in step]
    assert [step["batch"] for step in logged] == [2, 4, 6]
    for step in logged:
        assert step["memory/rss_gib"] == pytest.approx(step["hoard/0"], abs=0.05)
    assert logged[1]["memory/rss_gib"] > 1
    assert not any("memory/allocated_gib" in step for step in logged)  # no GPU


def test_the_rank_that_has_most_is_logged(tmp_path: Path) -> None:
    callbacks = {"hoard": {"batch": 2, "mebibytes": 1024, "rank": 1}, "memory": {"every": "2ba"}}
    arguments = {"folder": str(tmp_path), "callbacks": callbacks, "steps": 4, "overrides": [PLUGINS]}
    leader, _ = run_ranks(TRAINING, arguments, world_size=2)
    _, after = (step for step in leader["steps"] if "memory/rss_gib" in step)
    assert after["hoard/1"] > after["hoard/0"] + 0.1
    assert after["memory/rss_gib"] == pytest.approx(after["hoard/1"], abs=0.05)
