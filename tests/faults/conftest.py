"""Fixtures of the fault matrix, and its table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.matrix import Row, uninterrupted
from tests.faults.table import FaultTable
from tests.runs import Finished, Runs


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Finished:
    """50 steps of one process, not interrupted."""
    return uninterrupted(Runs(tmp_path_factory.mktemp("whole"), images))


@pytest.fixture
def row(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Row]:
    """To be filled by a test that is marked `fault("what was done", "what happens then")`."""
    row = Row(tmp_path)
    yield row
    fault, happens = request.node.get_closest_marker("fault").args
    entry = {"file": request.path.name, "fault": fault, "happens": happens, "told": row.told, "lost": row.lost}
    request.node.user_properties.append(("fault", json.dumps(entry)))


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("--fault-table")
    if file and not hasattr(config, "workerinput"):
        config.pluginmanager.register(FaultTable(Path(file)))
