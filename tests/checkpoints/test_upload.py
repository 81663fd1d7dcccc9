"""Object storage may be away for a while; what is not whole there is not declared complete."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from maws_composer.checkpoints.completeness import MARKER, newest_complete, write_marker
from maws_composer.checkpoints.run_folder import open_path
from maws_composer.checkpoints.upload import Uploader
from maws_composer.outages import StorageError
from tests.s3_server import S3Server, rclone

pytestmark = pytest.mark.skipif(rclone() is None, reason="rclone, of the extra `dev`, is not installed")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    server = S3Server(tmp_path / "s3")
    server.bucket("bucket")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # ours are tested, not boto's
    yield server
    server.stop()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "ep0-ba10"
    folder.mkdir()
    for name in ("__0_0.distcp", "__1_0.distcp"):
        (folder / name).write_bytes(name.encode() * 1000)
    write_marker(folder, sizes(folder), samples=10, world_size=2)
    return folder


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.glob("*.distcp")}


def test_storage_that_comes_back_gets_its_file(server: S3Server, checkpoint: Path) -> None:
    uploader = Uploader("s3://bucket/run", patience=60)
    uploader.start(lambda home: uploader.put(home, checkpoint / "__0_0.distcp", "checkpoints/x/a"))
    time.sleep(2)
    assert uploader.is_busy and uploader.error is None  # still trying
    server.start()
    uploader.wait()
    stored = server.bucket("bucket") / "run" / "checkpoints" / "x" / "a"
    assert stored.read_bytes() == (checkpoint / "__0_0.distcp").read_bytes()


def test_storage_that_stays_away_stops_the_run_with_a_sentence(server: S3Server, checkpoint: Path) -> None:
    uploader = Uploader("s3://bucket/run", patience=0.5)
    uploader.start(lambda home: uploader.put(home, checkpoint / "__0_0.distcp", "checkpoints/x/a"))
    with pytest.raises(StorageError, match=r"the limit is storage_patience = 0 s; the same command resumes the run"):
        uploader.wait()


def test_the_marker_waits_for_the_files_of_all_ranks(server: S3Server, checkpoint: Path) -> None:
    server.start()
    relative = f"checkpoints/{checkpoint.name}"
    ranks = [Uploader("s3://bucket/run", patience=30) for _ in range(2)]

    def rank_zero(home) -> None:
        ranks[0].put(home, checkpoint / "__0_0.distcp", f"{relative}/__0_0.distcp")
        ranks[0].put_marker(home, checkpoint, relative, sizes(checkpoint))

    ranks[0].start(rank_zero)
    time.sleep(2)
    stored = open_path("s3://bucket/run/checkpoints")
    assert newest_complete(stored)[0] is None
    assert not (stored / checkpoint.name / MARKER).exists()
    ranks[1].start(lambda home: ranks[1].put(home, checkpoint / "__1_0.distcp", f"{relative}/__1_0.distcp"))
    ranks[1].wait()
    ranks[0].wait()
    newest, _ = newest_complete(open_path("s3://bucket/run/checkpoints"))
    assert newest is not None and newest.files == sizes(checkpoint)


def test_an_abandoned_upload_leaves_no_marker(server: S3Server, checkpoint: Path) -> None:
    server.start()
    uploader = Uploader("s3://bucket/run", patience=30)
    uploader.start(
        lambda home: uploader.put_marker(home, checkpoint, f"checkpoints/{checkpoint.name}", sizes(checkpoint))
    )
    time.sleep(1)
    uploader.close()
    for thread in threading.enumerate():
        if thread.name == "upload":
            thread.join(10)
    assert not (server.bucket("bucket") / "run" / "checkpoints" / checkpoint.name / MARKER).exists()
