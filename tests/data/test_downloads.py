"""Several nodes with caches of their own, and a store between them: who downloads what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.data import reader
from tests.data.shards import index_of, write_shards
from tests.s3_server import S3Server

SAMPLES, BATCH, CANONICAL = 480, 24, 8
CUT = 10  # of 20 batches
PATIENCE = 300  # seconds: four processes side by side are slow on a busy machine


@pytest.fixture(scope="module")
def written(s3: S3Server) -> Path:
    return write_shards(s3.bucket("nodes") / "train", SAMPLES, per_shard=6)


def start(s3: S3Server, scratch: Path, world_size: int, nodes: int, **scenario: Any) -> list[reader.Rank]:
    train = {"remote": "s3://nodes/train", "num_canonical_nodes": CANONICAL, "shuffle_block_size": 24}
    scenario |= {"train": train, "batch": BATCH, "predownload": 12, "scratch": str(scratch)}
    scenario["loader_timeout"] = PATIENCE
    return reader.start([scenario], world_size, nodes, environment=s3.environment)


def rows_by_node(results: list[dict[str, Any]], nodes: int) -> list[list[Any]]:
    assert [result["error"] for result in results] == [None] * len(results)
    ranks = len(results) // nodes
    of_nodes = (results[first : first + ranks] for first in range(0, len(results), ranks))
    return [[row for rank in node for row in rank["rows"]] for node in of_nodes]


def shards_of(rows: list[Any], written: Path) -> set[str]:
    """Files that hold the samples of these rows."""
    shards = index_of(written)["shards"]
    holding = [shard["raw_data"]["basename"] for shard in shards for _ in range(shard["samples"])]
    return {holding[int(name)] for _, _, _, _, name, *_ in rows}


def caches(scratch: Path) -> list[dict[str, int]]:
    """Shards in each node's cache, and when they came."""
    folders = sorted((scratch / "data").glob("train-*-node*"))
    return [{file.name: file.stat().st_mtime_ns for file in folder.rglob("*.mds")} for folder in folders]


@pytest.mark.timeout(3 * PATIENCE)
def test_nodes_download_their_share_and_after_a_loss_of_half_of_them_only_what_is_ahead(s3, written, tmp_path):
    shards = len(index_of(written)["shards"])
    (results,) = reader.collect(start(s3, tmp_path / "whole", world_size=4, nodes=4), PATIENCE)
    by_node = rows_by_node(results, 4)
    whole = sorted(row for rows in by_node for row in rows)
    assert sorted(int(row[4]) for row in whole) == list(range(SAMPLES))
    share = caches(tmp_path / "whole")
    assert [set(cache) for cache in share] == [shards_of(rows, written) for rows in by_node]
    # A part of a canonical node begins and ends within a shard, which its neighbour reads too.
    assert all(len(cache) <= shards // 4 + CANONICAL // 4 for cache in share)

    (results,) = reader.collect_and_kill(start(s3, tmp_path / "cut", 4, 4, batches=CUT, stays=True), PATIENCE)
    first = [row for rows in rows_by_node(results, 4) for row in rows]
    assert len(first) == CUT * BATCH
    before = caches(tmp_path / "cut")
    assert all(set(cut) < set(all_of_it) for cut, all_of_it in zip(before, share, strict=True))

    resume = results[0]["state"]
    (results,) = reader.collect(start(s3, tmp_path / "cut", world_size=4, nodes=2, resume=resume), PATIENCE)
    by_node = rows_by_node(results, 2)
    assert sorted(first + [row for rows in by_node for row in rows]) == whole
    after = caches(tmp_path / "cut")
    assert after[2:] == before[2:]
    ahead = [shards_of(rows, written) for rows in by_node]
    assert len(set.union(*ahead)) < shards
    for node in (0, 1):
        assert set(after[node]) == ahead[node] | set(before[node])
        assert after[node].items() >= before[node].items()  # none of them was fetched again
