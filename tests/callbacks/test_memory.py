"""Memory, of the rank that has most."""

from __future__ import annotations

import resource
from pathlib import Path

from tests.callbacks.training import TRAINING, fit
from tests.processes import run_ranks

PLUGINS = "code_paths=[tests/plugins]"


def test_host_memory_is_what_the_process_takes(tmp_path: Path) -> None:
    hoard = {"batch": 3, "mebibytes": 256}
    steps = fit(tmp_path, {"memory": {"every": "2ba"}, "hoard": hoard}, 6, PLUGINS).steps
    sizes = {step["batch"]: step["memory/rss_gib"] for step in steps if "memory/rss_gib" in step}
    assert list(sizes) == [2, 4, 6]
    assert 0.1 < sizes[4] - sizes[2] < 0.5
    assert sizes[6] <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20 + 0.01
    assert not any("memory/allocated_gib" in step for step in steps)  # no GPU


def test_the_rank_that_has_most_is_logged(tmp_path: Path) -> None:
    callbacks = {"memory": {"every": "2ba"}, "hoard": {"batch": 2, "mebibytes": 512, "rank": 1}}
    arguments = {"folder": str(tmp_path), "callbacks": callbacks, "steps": 4, "overrides": [PLUGINS]}
    leader, _ = run_ranks(TRAINING, arguments, world_size=2)
    before, after = (step["memory/rss_gib"] for step in leader["steps"] if "memory/rss_gib" in step)
    assert 0.25 < after - before < 0.8  # the kernel may take pages of others back meanwhile
