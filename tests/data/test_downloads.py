"""Several nodes with caches of their own, and a store between them: who downloads what."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.data import reader
from tests.data.shards import shard_files, write_shards

SAMPLES, PER_SHARD, BATCH, CANONICAL = 1_200, 6, 24, 8
STOP = 20  # of 50 batches


def read(scenario: dict[str, Any], s3: Any, world_size: int, nodes: int) -> list[list[Any]]:
    """All rows that the ranks read, and the state."""
    ranks = reader.start([scenario], world_size, nodes, environment=s3.environment)
    (results,) = reader.collect(ranks, timeout=900)
    assert [rank["error"] for rank in results] == [None] * world_size
    return [row for rank in results for row in rank["rows"]], results[0]["state"]


def downloads(scratch: Path) -> list[set[str]]:
    """Shards in each node's cache."""
    caches = sorted((scratch / "data").glob("train-*-node*"))
    return [{file.name for file in cache.rglob("*.mds")} for cache in caches]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_each_node_downloads_what_it_reads_and_little_is_downloaded_twice(s3, tmp_path):
    written = write_shards(s3.bucket("nodes") / "train", SAMPLES, PER_SHARD)
    names = {file.name for file in shard_files(written)}
    train = {
        "remote": "s3://nodes/train",
        "num_canonical_nodes": CANONICAL,
        "shuffle_block_size": 8 * PER_SHARD,
    }
    scenario = {"train": train, "batch": BATCH, "workers": 0, "predownload": 2 * BATCH}
    whole, _ = read({**scenario, "scratch": str(tmp_path / "whole")}, s3, world_size=8, nodes=4)
    assert sorted(Counter(row[4] for row in whole).values()) == [1] * SAMPLES

    by_node = downloads(tmp_path / "whole")
    assert len(by_node) == 4 and set().union(*by_node) == names
    # Each part of a canonical node begins and ends within a shard, at most, which its neighbours read too.
    assert sum(map(len, by_node)) <= len(names) + CANONICAL
    assert all(len(shards) <= len(names) // 4 + 2 * CANONICAL // 4 for shards in by_node)

    first, state = read({**scenario, "scratch": str(tmp_path / "first"), "batches": STOP}, s3, world_size=8, nodes=4)
    rest, _ = read({**scenario, "scratch": str(tmp_path / "rest"), "resume": state}, s3, world_size=4, nodes=2)
    assert sorted(map(str, first + rest)) == sorted(map(str, whole))
    resumed = downloads(tmp_path / "rest")
    assert len(resumed) == 2 and sum(map(len, resumed)) < len(names)  # those that are behind are not fetched again
