"""The fault matrix as a page, written by those who ran it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.faults.matrix import SAVE_INTERVAL, STEPS
from tests.processes import ROOT

_HEAD = """# The fault matrix

Written by `make faults` ({when}, commit {commit}, {cores} CPU cores, Python {python}, torch {torch}, Composer
{composer}).

Every row was run with real launchers, real processes, and a real S3 server where storage is the point: {steps} steps
of a miniature MAE run over gloo, a checkpoint every {save_interval} steps. It ends with the uninterrupted run's curve
to 1e-5 and the same samples in each batch, or with the error that is quoted, after which the same command does. *Lost*
counts the steps that were done twice. The tests are `tests/faults/`.

| what was done | what happens | steps lost |
|---|---|---|
"""


class FaultTable:
    """Gathers the rows, in the order of files and tests, and writes the page when all have been run.

    Args:
        file: where it goes.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._rows: dict[tuple[str, int, str], dict] = {}
        self._failed: set[str] = set()
        self._began = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.add(report.nodeid)
        if report.when == "teardown":
            file, line, _ = report.location
            for name, value in report.user_properties:
                if name == "fault":
                    self._rows[file, line or 0, report.nodeid] = json.loads(value)

    def pytest_sessionfinish(self) -> None:
        rows = [_line(row) for (_, _, test), row in sorted(self._rows.items()) if test not in self._failed]
        failed = [f"- {test}" for test in sorted(self._failed)]
        minutes = (time.monotonic() - self._began) / 60
        page = _head() + "\n".join(rows) + f"\n\n{len(rows)} rows in {minutes:.0f} minutes.\n"
        if failed:
            page += "\nThese failed:\n\n" + "\n".join(failed) + "\n"
        self._file.write_text(page)


def _line(row: dict) -> str:
    told = f": “{row['told']}”" if row["told"] else ""
    return f"| {row['fault']} | {row['happens']}{told} | {row['lost']} |".replace("\n", " ")


def _head() -> str:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    return _HEAD.format(
        when=time.strftime("%Y-%m-%d"),
        commit=commit or "unknown",
        cores=os.cpu_count(),
        python=platform.python_version(),
        torch=version("torch"),
        composer=version("mosaicml"),
        steps=STEPS,
        save_interval=SAVE_INTERVAL,
    )
