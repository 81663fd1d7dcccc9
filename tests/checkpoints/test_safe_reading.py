"""Reading a checkpoint does not run what is in it."""

import os
import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from maws_composer.checkpoints.safe_reading import SafePlanner, SafeReader, UnsafeCheckpointError


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def state() -> dict:
    return {
        "weight": torch.arange(6.0).view(2, 3),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "time": {"batch": 3, "name": "x", "share": 0.5, "none": None, "pair": (1, 2)},
    }


def load(folder: Path) -> dict:
    into = {
        "weight": torch.zeros(2, 3),
        "half": torch.zeros(3, dtype=torch.bfloat16),
        "time": {"batch": 0, "name": "", "share": 0.0, "none": 1, "pair": (0, 0)},
    }
    dcp.load(into, storage_reader=SafeReader(folder), planner=SafePlanner(), no_dist=True)
    return into


def test_what_torch_wrote_is_read_back(tmp_path: Path) -> None:
    dcp.save(state(), checkpoint_id=tmp_path, no_dist=True)
    loaded = load(tmp_path)
    torch.testing.assert_close(loaded["weight"], state()["weight"])
    torch.testing.assert_close(loaded["half"], state()["half"])
    assert loaded["time"] == state()["time"]


def test_metadata_that_runs_code_is_refused(tmp_path: Path) -> None:
    dcp.save(state(), checkpoint_id=tmp_path, no_dist=True)
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Hostile(tmp_path / "made")))
    with pytest.raises(UnsafeCheckpointError, match=r"asks for posix\.mkdir, which no checkpoint needs"):
        SafeReader(tmp_path).read_metadata()
    assert not (tmp_path / "made").exists()


def test_torch_itself_would_have_run_it(tmp_path: Path) -> None:
    """When this fails, torch reads safely by itself and `safe_reading` can go."""
    dcp.save(state(), checkpoint_id=tmp_path, no_dist=True)
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Hostile(tmp_path / "made")))
    with pytest.raises(AttributeError):
        dcp.FileSystemReader(tmp_path).read_metadata()
    assert (tmp_path / "made").exists()


def test_an_entry_that_runs_code_is_refused(tmp_path: Path) -> None:
    dcp.save({**state(), "time": Hostile(tmp_path / "made")}, checkpoint_id=tmp_path, no_dist=True)
    into = {"time": 0}
    with pytest.raises(CheckpointException, match="entry time is more than a plain value"):
        dcp.load(into, storage_reader=SafeReader(tmp_path), planner=SafePlanner(), no_dist=True)
    assert not (tmp_path / "made").exists()


def test_metadata_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    dcp.save(state(), checkpoint_id=tmp_path / "a", no_dist=True)
    metadata = dcp.FileSystemReader(tmp_path / "a").read_metadata()
    for info in metadata.storage_data.values():
        info.relative_path = "../b/__0_0.distcp"
    (tmp_path / "a" / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(UnsafeCheckpointError, match="outside of it"):
        SafeReader(tmp_path / "a").read_metadata()
