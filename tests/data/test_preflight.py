"""Every foreseeable problem of the data is one sentence, before anything is spent."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from maws_composer.data.guards import cache_problems, needed_cache
from maws_composer.data.index import read_index
from maws_composer.data.loader import build_train_loader
from maws_composer.data.preflight import check_data, report_epoch
from maws_composer.data.sources import Shards
from maws_composer.outages import OutageError
from tests.data import reader
from tests.data.shards import shard_files, write_shards

MAKER = "python -m streaming_conversion makes shards of images"
Disk = namedtuple("Disk", "total used free")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_shards(tmp_path_factory.mktemp("preflight") / "data", 100)


def check(scratch: Path, data: dict[str, Any], world_size: int = 1, nodes: int = 1, **changes: Any) -> list[str]:
    run = reader.settings(
        {"train": {"num_canonical_nodes": 4, **data}, "scratch": str(scratch / "scratch"), "workers": 1, **changes}
    )
    return [f"{problem.path}: {problem.message}" for problem in check_data(run, world_size, nodes)]


def test_good_data_is_reported(folder, tmp_path):
    run = reader.settings({"train": {"local": str(folder), "num_canonical_nodes": 4}, "scratch": str(tmp_path)})
    assert check_data(run, 2, 2) == []
    dataset = build_train_loader(run).dataloader.dataset
    epoch = report_epoch(dataset.order, [stream.index for stream in dataset.streams], run.data.train)
    assert (epoch.samples, epoch.samples_per_epoch, epoch.left_out, epoch.unit) == (100, 96, 4, 16)
    assert str(epoch) == "an epoch is 96 samples from 9 shards (0.0 GB); 4 (4.00%) are left out of it, others in each"


def test_what_cannot_be_read_is_told_for_all_sources_at_once(folder, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    data = {"streams": {"a": {"local": str(tmp_path / "a")}, "b": {"remote": str(tmp_path / "b")}}}
    assert check(tmp_path, data, eval={"local": str(tmp_path / "c")}) == [
        f"data.train.streams.a.local: {tmp_path}/a is not readable: it has no index.json; {MAKER}",
        f"data.train.streams.b.remote: {tmp_path}/b is not readable: it has no index.json; {MAKER}",
        f"data.eval.local: {tmp_path}/c does not exist; {MAKER}",
    ]


def test_a_folder_that_does_not_exist_is_told_with_the_nearest(folder, tmp_path):
    (tmp_path / "pictures" / "train").mkdir(parents=True)
    near = {"local": str(tmp_path / "picture" / "train")}, {"remote": str(tmp_path / "pictures" / "trian")}
    assert check(tmp_path, near[0], eval=near[1]) == [
        f"data.train.local: {tmp_path}/picture/train does not exist; nearest is {tmp_path}/pictures/train",
        f"data.eval.remote: {tmp_path}/pictures/trian does not exist; nearest is {tmp_path}/pictures/train",
    ]


def test_missing_columns_and_hashes_are_told_together(folder, tmp_path):
    data = {"remote": str(folder), "columns": {"image": "jpg"}, "validate_hash": "md5"}
    assert check(tmp_path, data) == [
        f"data.train.columns.image: {folder} has no column jpg; it has id, image",
        f"data.train.validate_hash: {folder} was written with sha1, not md5; null reads it unchecked",
    ]


def test_what_an_epoch_leaves_out_is_limited(folder, tmp_path):
    data = {"local": str(folder), "num_canonical_nodes": 20}
    multiple = (
        "an epoch is a multiple of {}, thus of global_train_batch_size (16) and num_canonical_nodes ({}); "
        "lower one of them"
    )
    assert check(tmp_path, data) == [
        "data.train.max_left_out_share: 0.1 is passed: 20 of 100 samples (20.0%) would be left out of each epoch; "
        + multiple.format(80, 20)
    ]
    assert check(tmp_path, {**data, "max_left_out_share": 0.2}) == []
    assert check(tmp_path, {**data, "num_canonical_nodes": 768}) == [
        "data.train: 100 samples are too few: " + multiple.format(768, 768)
    ]


def test_a_disk_that_does_not_hold_the_cache_is_told(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(50_000, 0, 50_000))
    assert check(tmp_path, {"remote": str(folder), "shuffle_block_size": 1, "num_canonical_nodes": 1}) == [
        f"data.train.cache_limit: the shards take 119kb, {tmp_path} has 49kb free; 119kb is the least that works"
    ]
    assert check(tmp_path, {"local": str(folder)}) == []  # read where they are
    cache = tmp_path / "cache"
    shutil.copytree(folder, cache)
    assert check(tmp_path, {"remote": str(folder), "local": str(cache)}) == []  # they are there already


def test_a_cache_that_cannot_be_made_is_told(folder, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    said = f"{tmp_path}/link is a file, where a folder is needed; move it, or name another"
    data = {"remote": str(folder), "local": f"{tmp_path}/link/cache"}
    assert check(tmp_path, data) == [f"data.train.local: {said} data.train.local"]
    assert check(tmp_path / "link", {"remote": str(folder)}) == [f"speed.scratch_folder: {said} speed.scratch_folder"]


def test_a_cache_limit_that_would_fetch_shards_again_and_again_is_refused_with_one_that_works(tmp_path):
    folder = write_shards(tmp_path / "data", 400)
    data = {"remote": str(folder), "shuffle_block_size": 20}
    (problem,) = check(tmp_path, {**data, "cache_limit": "100kb"})
    assert problem.startswith("data.train.cache_limit: 100kb is too little: shards would be fetched again and again; ")
    works = problem.split("; ")[1].removesuffix(" works")
    assert check(tmp_path, {**data, "cache_limit": works}) == []
    total = read_index(Shards("data.train", "train", str(folder), None), 10).bytes
    scenario = {"batch": 16, "predownload": 16, "epochs": 2, "workers": 1, "scratch": str(tmp_path / "s")}
    settings = {**data, "num_canonical_nodes": 4, "cache_limit": works}
    ((result,),) = reader.run([{**scenario, "train": settings}])
    assert result["error"] is None and len(result["rows"]) == 800
    kept = sum(path.stat().st_size for path in (tmp_path / "s").rglob("*.mds"))
    assert kept < total  # it really had to evict


def test_the_cache_that_is_needed_is_what_is_read_at_one_time(tmp_path):
    index = read_index(Shards("data.train", "train", str(write_shards(tmp_path, 900)), None), 10)
    sizes = [needed_cache([index], *at_work) for at_work in ((1, 1, 1), (1, 8, 1), (40, 8, 1), (40, 8, 4))]
    assert sizes == sorted(set(sizes)) and sizes[-1] < index.bytes
    assert needed_cache([index], 1 << 18, 768, 64) < index.bytes * 1.1  # all of it is enough
    assert cache_problems(None, [index], 1, 1, 1) == []


def test_images_that_cannot_be_decoded_are_told(folder, tmp_path):
    bad = write_shards(tmp_path / "bad", 40, bad=range(40))
    path = min(shard_files(bad), key=lambda file: file.stat().st_size)
    for data in ({"local": str(bad)}, {"remote": str(bad)}):
        (problem,) = check(tmp_path, data | {"max_left_out_share": 1})
        assert problem.startswith("data.train.columns.image: none of the first ")
        assert problem.endswith(
            f"samples of {path} can be used: image cannot be decoded: not an image of a known format"
        )
    some = write_shards(tmp_path / "some", 100, bad=range(0, 100, 2))
    assert check(tmp_path, {"local": str(some)}) == []
    assert check(tmp_path, {"local": str(folder), "max_pixels": 100})[0].endswith(
        "image cannot be decoded: 16 x 12 pixels, the limit is 100"
    )


def test_a_missing_first_shard_is_told(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    path = min(shard_files(copy), key=lambda file: file.stat().st_size)
    path.unlink()
    assert check(tmp_path, {"local": str(copy)}) == [
        f"data.train.local: {path} is missing; once it is there, the same command goes on"
    ]
    assert check(tmp_path, {"remote": str(copy), "download_retry": 1}) == [
        f"data.train.remote: {path} could not be read in 1 attempts, 0 s: there is no such file"
    ]


def test_evaluation_pictures_must_not_be_resized_below_the_crop(folder, tmp_path):
    assert check(tmp_path, {"local": str(folder)}, eval={"local": str(folder), "resize": 7}) == [
        "data.eval.resize: 7 is less than the model's image_size, 8"
    ]


def test_object_storage_says_what_is_wrong(folder, tmp_path, s3, monkeypatch):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    shutil.copytree(folder, s3.bucket("preflight") / "data")
    assert check(tmp_path, {"remote": "s3://preflight/data"}) == []
    assert check(tmp_path, {"remote": "s3://preflight/date"}) == [
        "data.train.remote: s3://preflight/date is not readable: it has no index.json; " + MAKER
    ]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert check(tmp_path, {"remote": "s3://preflight/data"}) == [
        "data.train.remote: s3://preflight/data is not readable: access denied"
    ]
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(OutageError, match=r"train\.remote: s3://preflight/data is not readable: Could not connect"):
        check(tmp_path, {"remote": "s3://preflight/data"})


def test_an_unknown_kind_of_storage_is_told(tmp_path):
    assert check(tmp_path, {"remote": "ftp://host/data"}) == [
        "data.train.remote: ftp://host/data is not readable: Unsupported remote path: ftp://host/data/index.json"
    ]
