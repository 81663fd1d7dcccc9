"""Conversion straight into object storage, on a real S3 server."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from streaming import StreamingDataset

from tests.processes import ROOT
from tests.s3_server import S3Server, rclone
from tests.streaming_conversion.conftest import Convert, command, content, save_images

pytestmark = pytest.mark.skipif(rclone() is None, reason="rclone is not installed")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    with S3Server(tmp_path / "storage") as server:
        server.bucket("bucket")
        yield server


def test_it_arrives_as_it_would_in_a_folder(
    images: Path, tmp_path: Path, server: S3Server, convert: Convert, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--part-size", 25, "--shard-size", "16kb", "--processes", 2)
    done = convert("folder", "photos", "s3://bucket/some/mds", *options, "--scratch", "scratch", **server.environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("s3://bucket/some/mds: 60 images, ")
    assert convert("folder", "photos", "local", *options).returncode == 0
    arrived = content(server.bucket("bucket") / "some/mds")
    assert {name: each for name, each in arrived.items() if not name.startswith(".conversion")} == content(
        tmp_path / "local"
    )
    assert not [path for path in (tmp_path / "scratch").rglob("*") if path.is_file() and path.suffix != ".lock"]

    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    dataset = StreamingDataset(
        remote="s3://bucket/some/mds", local=str(tmp_path / "cache"), batch_size=1, validate_hash="sha1"
    )
    assert dataset[59]["image"] == (images / dataset[59]["id"]).read_bytes()

    again = convert("folder", "photos", "s3://bucket/some/mds", *options, **server.environment)
    assert again.returncode == 2
    assert again.stderr == "s3://bucket/some/mds holds a finished dataset; --overwrite replaces it\n"
    again = convert("folder", "photos", "s3://bucket/some/mds", *options, "--overwrite", **server.environment)
    assert again.stderr == (
        "--overwrite cannot delete in object storage; delete s3://bucket/some/mds with your storage's own tool, or "
        "choose another destination\n"
    )


def test_another_machine_goes_on_with_a_killed_conversion(tmp_path: Path, server: S3Server, convert: Convert) -> None:
    save_images(tmp_path / "photos", 240, size=160)
    options = ("--part-size", 20, "--processes", 1)
    mds = server.bucket("bucket") / "mds"
    process = subprocess.Popen(
        command("folder", "photos", "s3://bucket/mds", *options, "--scratch", "here"),
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | server.environment,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while len(list((mds / ".conversion").glob("part-*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (mds / "index.json").exists()
    kept = {path.stem for path in (mds / ".conversion").glob("part-*.json")}
    written = {name: (mds / name / "shard.00000.mds").stat().st_mtime_ns for name in kept}
    assert 3 <= len(kept) < 12

    changed = convert(
        "folder", "photos", "s3://bucket/mds", "--part-size", 21, "--scratch", "there", **server.environment
    )
    assert changed.returncode == 2 and "part_size was 20, is 21" in changed.stderr
    done = convert("folder", "photos", "s3://bucket/mds", *options, "--scratch", "there", **server.environment)
    assert done.returncode == 0, done.stderr
    assert {name: (mds / name / "shard.00000.mds").stat().st_mtime_ns for name in kept} == written
    assert json.loads((mds / "dataset.json").read_text())["counts"]["images"] == 240
    assert sum(shard["samples"] for shard in json.loads((mds / "index.json").read_text())["shards"]) == 240


def test_storage_that_refuses_is_an_error_that_names_it(images: Path, convert: Convert, server: S3Server) -> None:
    absent = convert("folder", "photos", "s3://absent/mds", **server.environment)
    assert absent.returncode == 2
    assert absent.stderr.startswith("s3://absent/mds cannot be written to: ") and "Traceback" not in absent.stderr
    server.stop()
    gone = convert("folder", "photos", "s3://bucket/mds", **server.environment)
    assert gone.returncode == 2
    assert gone.stderr.startswith("s3://bucket/mds cannot be written to: Could not connect to the endpoint URL")
