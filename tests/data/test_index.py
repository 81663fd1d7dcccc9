"""What `index.json` says is not believed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.data.index import column_problems, hash_problems, read_index
from maws_composer.data.sources import Shards
from tests.data import reader
from tests.data.shards import index_of, write_index, write_shards

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_shards(tmp_path_factory.mktemp("index") / "good")


def source(folder: Path) -> Shards:
    return Shards("data.train", "train", None, str(folder))


def shard(index: dict[str, Any]) -> dict[str, Any]:
    return index["shards"][1]


def rename(name: Any) -> Change:
    return lambda index: shard(index)["raw_data"].update(basename=name)


CHANGES: list[tuple[Change, str]] = [
    (rename("../other/shard.00000.mds"), "shard 1 names a file outside of the dataset, '../other/shard.00000.mds'"),
    (rename("a/../../x"), "shard 1 names a file outside of the dataset, 'a/../../x'"),
    (rename("/etc/passwd"), "shard 1 names a file outside of the dataset, '/etc/passwd'"),
    (rename("..\\x"), "shard 1 names a file outside of the dataset, '..\\\\x'"),
    (rename("s3://other/x"), "shard 1 names a file outside of the dataset, 's3://other/x'"),
    (rename("index.json"), "shard 1 names a file outside of the dataset, 'index.json'"),
    (rename(""), "shard 1 names a file outside of the dataset, ''"),
    (rename(7), "shard 1 names a file outside of the dataset, 7"),
    (
        lambda index: shard(index).update(column_encodings=["pkl", "bytes"]),
        "shard 1 has a pickled column, id; reading it could run any code",
    ),
    (
        lambda index: shard(index).update(column_encodings=["str", "pkl:x"]),
        "shard 1 has a pickled column, image; reading it could run any code",
    ),
    (
        lambda index: shard(index).update(column_encodings=["exe", "bytes"]),
        "shard 1 has a column, id, of unknown encoding exe",
    ),
    (lambda index: shard(index).update(format="csv"), "shard 1 is 'csv' of version 2; only MDS of version 2 is read"),
    (lambda index: shard(index).update(samples=0), "shard 1 says that it has 0 samples"),
    (lambda index: shard(index).update(samples=-5), "shard 1 says that it has -5 samples"),
    (lambda index: shard(index).update(column_sizes=[None]), "shard 1 has columns without a name, encoding or size"),
    (lambda index: shard(index).pop("raw_data"), "shard 1 is described in an unknown way (KeyError('raw_data'))"),
    (lambda index: index.update(version=3), "is not an index of version 2"),
    (lambda index: index.update(shards=[]), "names no shards"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_a_strange_index_is_refused_with_the_reason(folder, tmp_path, change, message):
    index = copy.deepcopy(index_of(folder))
    change(index)
    write_index(tmp_path, index)
    with pytest.raises(ConfigError) as refused:
        read_index(source(tmp_path), 10)
    assert refused.value.problems == [Problem("data.train.local", f"{tmp_path}/index.json: {message}")]


def test_what_is_no_json_or_not_there_is_told(tmp_path):
    with pytest.raises(ConfigError) as refused:
        read_index(source(tmp_path), 10)
    assert str(refused.value) == (
        f"data.train.local: {tmp_path} is not readable: it has no index.json; "
        "python -m streaming_conversion makes shards of images"
    )
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(ConfigError, match="is not JSON"):
        read_index(source(tmp_path), 10)


def test_a_hostile_index_is_refused_on_every_rank_before_anything_is_written(folder, tmp_path):
    index = index_of(folder)
    rename("../../stolen")(index)
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    write_index(hostile, index)
    scenario = {"train": {"remote": str(hostile), "download_retry": 1}, "scratch": str(tmp_path / "scratch")}
    (ranks,) = reader.run([scenario], world_size=2)
    for rank in ranks:
        assert rank["kind"] == "ConfigError"
        assert rank["error"].endswith("shard 1 names a file outside of the dataset, '../../stolen'")
    assert not list(tmp_path.rglob("stolen"))


def test_wanted_columns_must_be_there_and_readable(folder):
    index = read_index(source(folder), 10)
    assert column_problems(index, {"image": "image", "id": "id"}) == []
    assert column_problems(index, {"image": "jpg", "id": "image"}) == [
        Problem("data.train.columns.image", f"{folder} has no column jpg; it has id, image"),
        Problem("data.train.columns.id", f"image of {folder} is bytes, which is not read as id"),
    ]


def test_the_hash_that_shards_are_checked_with_must_be_there(folder, tmp_path):
    cached = Shards("data.train.streams.a", "a", str(folder), None)
    index = read_index(cached, 10)
    assert hash_problems(index, "sha1") == hash_problems(index, None) == []
    message = f"{folder} was written with sha1, not md5; null reads it unchecked"
    assert hash_problems(index, "md5") == [Problem("data.train.validate_hash", message)]
    unhashed = write_shards(tmp_path / "unhashed", 20, hashes=())
    index = read_index(Shards("data.eval", "eval", str(unhashed), None), 10)
    message = f"{unhashed} was written with no hashes, not sha1; null reads it unchecked"
    assert hash_problems(index, "sha1") == [Problem("data.eval.validate_hash", message)]


def test_the_digest_follows_the_shards_not_the_place(folder, tmp_path):
    digest = read_index(source(folder), 10).digest
    index = index_of(folder)
    write_index(tmp_path, {**index, "comment": json.dumps(1)})
    assert read_index(source(tmp_path), 10).digest == digest
    shard(index)["raw_data"]["hashes"]["sha1"] = "0" * 40
    write_index(tmp_path, index)
    assert read_index(source(tmp_path), 10).digest != digest


def test_other_column_names_and_compressed_shards_are_read(tmp_path):
    named = write_shards(tmp_path / "named", 26, names=("jpg", "key"), prefix="n")
    packed = write_shards(tmp_path / "packed", 26, compression="zstd", prefix="p")
    scratch = {"scratch": str(tmp_path / "s")}
    results = reader.run(
        [
            {"train": {}, "eval": {"remote": str(named), "columns": {"image": "jpg", "id": "key"}}, **scratch},
            {"train": {}, "eval": {"remote": str(packed)}, **scratch, "workers": 1},
        ]
    )
    for (result,), prefix in zip(results, "np", strict=True):
        assert result["error"] is None
        assert [row[4] for row in result["rows"]][:26] == [f"{prefix}{i}" for i in range(26)]
