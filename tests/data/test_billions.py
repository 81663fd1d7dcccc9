"""What billions of samples ask for: an index, readers and a plan that take little, and are read as before."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maws_composer.config.problems import ConfigError
from maws_composer.data.guards import DataStream
from maws_composer.data.index import Index, parse_index
from maws_composer.data.order import Seat
from maws_composer.data.settings import TrainData
from maws_composer.data.shard_readers import Readers
from maws_composer.data.shared_plan import PlannedSamples
from maws_composer.data.sources import Shards
from tests.data import reader
from tests.data.shards import index_of, shard_files, write_shards

SOURCE = Shards("data.train", "train", None, "/data")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_shards(tmp_path_factory.mktemp("billions") / "data", 100)


def many(folder: Path, shards: int) -> dict[str, Any]:
    """An index of many shards."""
    entry = json.dumps(index_of(folder)["shards"][0])
    named = [json.loads(entry.replace("shard.00000", f"shard.{number:06}")) for number in range(shards)]
    return {"version": 2, "shards": named}


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"indent": 2},
        {"sort_keys": True, "separators": (",", ":")},
        {"ensure_ascii": False},
    ],
)
def test_entries_are_those_of_the_json_however_it_is_written(folder, written):
    index = index_of(folder)
    index["shards"][1]["raw_data"]["basename"] = "teil-ä/shard.mds"
    index["shards"][2]["note"] = {"shards": [], "text": '"shards": ['}
    text = json.dumps({**index, "comment": "ü"}, **written).encode()
    assert list(parse_index(text, SOURCE).shards) == index["shards"]


@pytest.mark.parametrize(
    "damage", [b'{"shards": [', b'{"version": 2, "shards": [1 2]}', b'{"shards": [{}', b"\xff\xfe"]
)
def test_a_cut_off_index_is_no_json(damage):
    with pytest.raises(ConfigError, match="is not JSON"):
        parse_index(damage, SOURCE)


def test_a_process_checks_a_text_once_until_its_index_is_saved(folder, tmp_path):
    text = (folder / "index.json").read_bytes()
    source = Shards("data.train", "train", None, str(folder))
    first = parse_index(text, source)
    assert parse_index(bytes(bytearray(text)), source) is first
    changed = parse_index(text.replace(b'"samples": 12', b'"samples": 11', 1), source)
    assert changed.sizes[0] == first.sizes[0] - 1 and changed.digest != first.digest
    again = parse_index(text, source)
    DataStream(source, tmp_path, {"id": "id"}, TrainData(local=str(folder))).fetch_index()
    assert parse_index(text, source) is not again


def test_what_the_leader_saved_is_what_it_read(folder, tmp_path):
    read = parse_index((folder / "index.json").read_bytes(), SOURCE)
    read.save(tmp_path)
    read.save(tmp_path)  # in the place of what an earlier run left
    mapped = Index.load(tmp_path, SOURCE)
    assert list(mapped.shards) == list(read.shards) and mapped.sizes.tolist() == read.sizes.tolist()
    assert (mapped.digest, mapped.is_hashed, mapped.bytes) == (read.digest, read.is_hashed, read.bytes)
    assert (mapped.layouts, mapped.hashes) == (read.layouts, read.hashes)


def test_an_index_takes_little_more_than_its_text(folder, tmp_path):
    shards = 5_000
    text = json.dumps(many(folder, shards)).encode()
    parse_index(text, SOURCE).save(tmp_path)
    tracemalloc.start()
    try:
        index = Index.load(tmp_path, SOURCE)
        taken = tracemalloc.get_traced_memory()[0]
        entries = json.loads(text)["shards"]
        as_dictionaries = tracemalloc.get_traced_memory()[0] - taken
    finally:
        tracemalloc.stop()
    assert len(index.shards) == len(entries) == shards
    assert as_dictionaries > 1_000 * shards  # of each process; what is mapped is the node's
    assert taken < 20 * shards


def test_readers_are_made_when_asked_for_and_are_those_of_their_streams(folder, tmp_path):
    other = write_shards(tmp_path / "other", 30, prefix="other-")
    streams = []
    for place in (folder, other):
        source = Shards("data.train", place.name, None, str(place))
        stream = DataStream(source, tmp_path, {"id": "id"}, TrainData(local=str(place)))
        stream.index = parse_index((place / "index.json").read_bytes(), source)
        streams.append(stream)
    readers = Readers(streams)
    ids = [sample["id"] for shard in range(len(readers)) for sample in readers[shard]]
    assert ids == [*map(str, range(100)), *(f"other-{number}" for number in range(30))]
    assert readers[0] is readers[0]


@pytest.mark.parametrize(("ranks", "workers", "batch"), [(1, 1, 4), (2, 3, 4), (3, 2, 1)])
def test_workers_look_into_one_plan_and_leave_nothing_out(ranks, workers, batch):
    plan = np.random.default_rng(0).permutation(ranks * batch * 7)
    parts = [
        PlannedSamples(plan, Seat(0, 1, rank, ranks, worker, workers, batch))
        for rank in range(ranks)
        for worker in range(workers)
    ]
    assert sorted(sample for part in parts for sample in part) == sorted(plan.tolist())
    assert parts[0][0] == plan[0]


def test_shards_of_an_earlier_run_are_not_fetched_again_and_no_plan_is_left(folder, tmp_path):
    remote = write_shards(tmp_path / "remote", 52, prefix="r")
    packed = write_shards(tmp_path / "packed", 52, compression="zstd", prefix="p")
    streams = {"a": {"remote": str(remote)}, "b": {"remote": str(packed)}}
    train = {"streams": streams, "num_canonical_nodes": 4, "download_retry": 1}
    scenario = {"train": train, "batch": 4, "scratch": str(tmp_path / "scratch"), "workers": 1}
    ((before,),) = reader.run([scenario])
    assert before["error"] is None and len(before["rows"]) == 104
    for file in shard_files(remote):
        file.unlink()
    for file in packed.glob("*.zstd"):
        file.unlink()
    ((after,),) = reader.run([scenario])
    assert after["error"] is None and after["rows"] == before["rows"]
    assert not list((tmp_path / "scratch").rglob("*epoch_data*"))
