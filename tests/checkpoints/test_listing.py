"""`maws-composer checkpoints`: what there is, and whether it is what was written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from maws_composer.cli import main
from tests.checkpoints.saved import flip_a_byte, save_shards
from tests.s3_server import S3Server, rclone


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two complete checkpoints, the older without checksums, and one that was cut off."""
    checkpoints = tmp_path / "run" / "checkpoints"
    save_shards(checkpoints / "ep0-ba9", with_checksums=False)
    save_shards(checkpoints / "ep0-ba100")
    save_shards(checkpoints / "ep1-ba110")
    (checkpoints / "ep1-ba110" / "complete.json").unlink()
    return tmp_path / "run"


def rows(out: str) -> list[list[str]]:
    """Cells of a table whose columns are two spaces apart."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in out.splitlines()]


def test_the_newest_comes_first_with_all_that_is_known(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoints", str(run)]) == 0
    head, cut_off, newest, _ = rows(capsys.readouterr().out)
    assert head == ["checkpoint", "step", "samples", "size", "saved", "processes", "torch", "composer", "complete"]
    assert cut_off[:2] == ["ep1-ba110", "110"]
    assert cut_off[-1] == "no: it has no complete.json: saving or uploading it was cut off"
    assert newest[:4] == ["ep0-ba100", "100", "64", "0.2 MB"] and newest[5:7] == ["2", torch.__version__.split("+")[0]]
    assert newest[-1] == "yes"


def test_every_byte_is_read_and_what_is_damaged_fails(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoints", str(run), "--verify"]) == 0  # what was cut off does not claim to be complete
    _, _, newest, old = rows(capsys.readouterr().out)
    assert newest[-1] == "yes, every byte is as written"
    assert old[-1] == "yes, every byte can be read; there are no checksums to compare with"
    flip_a_byte(run / "checkpoints" / "ep0-ba100" / "__1_0.distcp")
    assert main(["checkpoints", str(run), "--verify"]) == 1
    assert "no: __1_0.distcp is damaged" in capsys.readouterr().out
    assert main(["checkpoints", str(run), "ep0-ba9", "--verify"]) == 0


def test_what_is_not_there_is_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoints", str(run), "ep0-ba10"]) == 2
    assert "has no checkpoint ep0-ba10; it has ep1-ba110, ep0-ba100, ep0-ba9" in capsys.readouterr().err
    assert main(["checkpoints", str(run / "checkpoints")]) == 2
    assert "name the folder of a run" in capsys.readouterr().err


@pytest.mark.skipif(rclone() is None, reason="rclone, of the extra `dev`, is not installed")
def test_a_run_in_object_storage(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with S3Server(tmp_path / "s3") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        run.rename(server.bucket("bucket") / "run")
        assert main(["checkpoints", "s3://bucket/run", "--verify"]) == 0
        assert rows(capsys.readouterr().out)[2][-1] == "yes, every byte is as written"
        flip_a_byte(server.bucket("bucket") / "run" / "checkpoints" / "ep0-ba100" / ".metadata")
        assert main(["checkpoints", "s3://bucket/run", "--verify"]) == 1
        assert "no: .metadata is damaged" in capsys.readouterr().out
