"""Conversion straight into object storage and out of it, on a real S3 server."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from streaming import MDSWriter, StreamingDataset
from streaming.base.storage import CloudDownloader

from streaming_conversion.cli import main
from streaming_conversion.mds import _index
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


@pytest.mark.slow
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


@pytest.mark.parametrize("compression", [pytest.param(None, marks=pytest.mark.slow), "zstd:3"])
def test_hashtags_are_labelled_from_object_storage_without_a_copy_on_the_disk(
    compression: str | None, tmp_path: Path, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags = [[["common"], ["rare", "common"], ["middling"]][number % 7 % 3] for number in range(60)]
    plain = write_hashtags(tmp_path / "plain", tags, None)
    shards = write_hashtags(server.bucket("bucket") / "mds", tags, compression)
    options = ("--canonical", "none", "--group-images", 1, "--processes", 1)
    assert main([str(each) for each in ("label", plain, tmp_path / "expected", *options)]) == 0

    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    fetched: Counter[str] = Counter()
    download = CloudDownloader.direct_download

    def direct_download(remote: str, local: str, timeout: float) -> None:
        assert not [path for path in scratch.rglob("*") if path.is_file()]
        fetched[remote.rpartition("/")[2]] += 1
        download(remote, local, timeout)

    monkeypatch.setattr(CloudDownloader, "direct_download", direct_download)
    _index.cache_clear()
    assert main([str(each) for each in ("label", "s3://bucket/mds/", tmp_path / "mds", *options)]) == 0
    found, expected = (content(tmp_path / name) for name in ("mds", "expected"))
    assert {name for name in found if found[name] != expected.get(name)} == {"dataset.json"}  # it names the source
    groups = len(json.loads((tmp_path / "mds" / "dataset.json").read_text())["groups"])
    ending = ".zstd" if compression else ".mds"
    counts = {name: count for name, count in fetched.items() if name.endswith(ending)}
    assert len(counts) == len(list(shards.glob(f"*{ending}"))) > 2
    assert groups == 2 and sorted(counts.values())[-2] <= 2 + groups
    assert max(counts.values()) <= 3 + groups  # the first tells the columns, too


@pytest.mark.slow
def test_a_source_in_object_storage_that_is_not_there_is_named(convert: Convert, server: S3Server) -> None:
    absent = convert("label", "s3://bucket/none", "labelled", "--canonical", "none", **server.environment)
    assert absent.returncode == 2
    assert absent.stderr.startswith("s3://bucket/none/index.json cannot be read: "), absent.stderr
    assert "Traceback" not in absent.stderr


def write_hashtags(folder: Path, tags: list[list[str]], compression: str | None) -> Path:
    """A dataset of small shards that others wrote: pictures of noise, ids and hashtags."""
    rng = np.random.default_rng(0)
    columns = {"image": "bytes", "id": "str", "hashtags": "json"}
    with MDSWriter(out=str(folder), columns=columns, compression=compression, size_limit=4096) as writer:
        for number, of_image in enumerate(tags):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(buffer, "PNG")
            writer.write({"image": buffer.getvalue(), "id": str(number), "hashtags": of_image})
    return folder
