"""How many processes decode."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from maws_composer.data.loader_processes import loader_processes, usable_cores
from maws_composer.parallel.settings import ForwardSpeed


@pytest.mark.parametrize(("cores", "ranks", "processes"), [(16, 1, 15), (192, 8, 23), (8, 8, 1), (256, 1, 32)])
def test_the_cores_of_a_node_are_shared_out(monkeypatch, cores: int, ranks: int, processes: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    assert loader_processes(ForwardSpeed(), ranks) == processes
    assert loader_processes(ForwardSpeed(workers=0), ranks) == 0


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 8), ("350000 100000", 3), ("50000 100000", 1)])
def test_a_container_has_as_many_cores_as_its_quota(monkeypatch, tmp_path: Path, quota: str, cores: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    (tmp_path / "cpu.max").write_text(quota)
    assert usable_cores(tmp_path / "cpu.max") == cores
    assert usable_cores(tmp_path / "none") == 8
