"""Samples and shards that are not what they should be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from streaming.base.format.mds.reader import MDSReader

from tests.faults.matrix import Row
from tests.runs import Finished, Runs, write_images
from tests.s3_server import S3Server, rclone


def image_of(images: Path, number: int) -> bytes:
    shard = json.loads((images / "index.json").read_text())["shards"][0]
    return MDSReader.from_json(str(images), None, shard)[number]["image"]


@pytest.mark.slow
@pytest.mark.fault("one image of 512 undecodable", "its neighbor takes its place, crop and all; named and counted")
def test_undecodable_image(runs: Runs, row: Row, images: Path, tmp_path: Path) -> None:
    """Against a run on images of which that one really is its neighbor."""
    neighbor = image_of(images, 8)
    broken = write_images(tmp_path / "broken", broken={7: bytes(len(neighbor))})  # as long: shards begin where they did
    replaced = write_images(tmp_path / "replaced", broken={7: neighbor})
    counted = runs("broken", f"data.train.local={broken}", "data.train.max_bad_share=0.01")
    expected = runs("replaced", f"data.train.local={replaced}", "data.train.max_bad_share=0.01")
    assert "sample 00007 cannot be used: image cannot be decoded" in counted.output
    assert counted.code == 0 and counted.losses == expected.losses
    assert [step for step in counted.steps if "data/replaced_samples" in step][-1]["data/replaced_samples"] == 2


@pytest.mark.slow
@pytest.mark.fault(
    "more undecodable images than `data.train.max_bad_share`", "the run stops; with a higher share, it goes on"
)
def test_too_many_undecodable_images(runs: Runs, row: Row, tmp_path: Path) -> None:
    broken = write_images(tmp_path / "broken", broken={number: b"no image" for number in range(0, 512, 10)})
    longer = (f"data.train.local={broken}", "max_duration=3200sp")
    stopped = runs("broken", *longer, processes=2)
    row.error(stopped, "samples could not be used, data.train.max_bad_share is")
    again = runs("broken", *longer, "data.train.max_bad_share=0.2", processes=2)
    assert again.code == 0 and again.status["samples"] == 3200, again.output


def shard_damaged(
    whole: Finished, images: Path, tmp_path: Path, row: Row, damage: Callable[[Path], None], sentence: str
) -> None:
    """In object storage; once it is whole again, the same command goes on."""
    with S3Server(tmp_path / "s3") as server:
        remote = shutil.copytree(images, server.bucket("bucket") / "images")
        shard = sorted(remote.glob("shard.*"))[1]
        damage(shard)
        runs = Runs(tmp_path, images, server.environment)
        overrides = ("data.train.local=null", "data.train.remote=s3://bucket/images", *row.recording)
        patient = ("data.train.download_retry=2",)
        stopped = runs("run", *overrides, *patient, processes=2)
        row.error(stopped, sentence)
        assert shard.name in stopped.output
        shutil.copy(images / shard.name, shard)
        row.same_run(runs("run", *overrides, processes=2), whole)


with_storage = pytest.mark.skipif(rclone() is None, reason="rclone, of the extra `dev`, is not installed")


@with_storage
@pytest.mark.fault("a shard missing", "the run stops and names it; once it is there, it goes on")
@pytest.mark.slow
def test_missing_shard(whole: Finished, images: Path, tmp_path: Path, row: Row) -> None:
    shard_damaged(whole, images, tmp_path, row, lambda shard: shard.unlink(), "shard.00001.mds")


@pytest.mark.slow
@with_storage
@pytest.mark.fault("a shard truncated", "the run stops and names it; once it is whole, it goes on")
def test_truncated_shard(whole: Finished, images: Path, tmp_path: Path, row: Row) -> None:
    def truncate(shard: Path) -> None:
        shard.write_bytes(shard.read_bytes()[:5000])

    shard_damaged(whole, images, tmp_path, row, truncate, "shard.00001.mds")


@pytest.mark.slow
@with_storage
@pytest.mark.fault("one bit of a shard flipped", "the run stops and names it; once it is right, it goes on")
def test_flipped_bit(whole: Finished, images: Path, tmp_path: Path, row: Row) -> None:
    def flip(shard: Path) -> None:
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)

    shard_damaged(whole, images, tmp_path, row, flip, "shard.00001.mds")
