"""status.json says how a run ended, whatever else is broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch.distributed as dist

from maws_composer.checkpoints.run_folder import RunFolder
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.parallel.leave import leave_process_group
from maws_composer.resilience import status
from maws_composer.resilience.history import RunHistory
from maws_composer.resilience.status import status_of, write_failure
from tests.processes import free_port


class Away(RunFolder):
    """Of a run in object storage that does not answer."""

    @property
    def home(self) -> Path:
        raise ConnectionError("nobody answers")


def test_a_failure_is_written_here_while_storage_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_PATIENCE", 0)
    history = RunHistory(status.numbers_in({}))
    write_failure(Away("s3://bucket/run", tmp_path), "storage is away", history)
    write_failure(Away("s3://bucket/run", tmp_path), "rank 0 is gone", history)
    written = json.loads((tmp_path / "status.json").read_text())
    assert (written["state"], written["reason"]) == ("failed", "storage is away")


@pytest.mark.parametrize("before", [None, '{"state": "preempted"}\n'])
def test_a_start_that_is_refused_leaves_what_there_was(tmp_path: Path, before: str | None) -> None:
    file = tmp_path / "status.json"
    if before:
        file.write_text(before)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{free_port()}", rank=0, world_size=1)
    try:
        with pytest.raises(ConfigError), status_of(RunFolder(str(tmp_path), tmp_path)):
            assert json.loads(file.read_text())["state"] == "running"
            raise ConfigError([Problem("optimizer.base_lr", "was 0.02")])
    finally:
        leave_process_group()
    assert (file.read_text() if file.exists() else None) == before
