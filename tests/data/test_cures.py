"""What plain streaming does where we do something else. When one of these fails, its cure can go."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import streaming.base.dataset as streaming_dataset
from streaming import Stream, StreamingDataset
from streaming.base.spanner import Spanner
from streaming.base.world import World

from maws_composer.config.problems import ConfigError
from maws_composer.data.loader import build_train_loader
from tests.data import reader
from tests.data.shards import index_of, shard_files, write_index, write_shards


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_shards(tmp_path / "data")


def plain(folder: Path, tmp_path: Path, **options: Any) -> StreamingDataset:
    local = tmp_path / f"cache{len(list(tmp_path.iterdir()))}"
    return StreamingDataset(remote=str(folder), local=str(local), batch_size=8, download_retry=1, **options)


def ours(folder: Path, tmp_path: Path, **train: Any) -> Any:
    train = {"local": str(folder), "num_canonical_nodes": 4, **train}
    run = reader.settings({"train": train, "batch": 8, "scratch": str(tmp_path / "scratch")})
    return build_train_loader(run).dataloader.dataset


def test_a_missing_shard_ends_an_epoch_of_plain_streaming_in_silence(folder, tmp_path):
    shard_files(folder)[4].unlink()
    count = 0
    for _ in plain(folder, tmp_path, predownload=8):
        count += 1
        time.sleep(0.005)  # so that the background thread fails in between: else it may be noticed after all
    assert count < 100


def test_plain_streaming_leaves_a_damaged_shard_in_the_cache_and_reads_it_the_next_time(folder, tmp_path):
    damaged = shard_files(folder)[0]
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    stream = Stream(
        remote=str(folder), local=str(tmp_path / "c"), download_retry=1, download_timeout=9, validate_hash="sha1",
        keep_zip=False,
    )  # fmt: skip
    shard = stream.get_shards(World(1, 1, 1, 0), False)[0]
    with pytest.raises(ValueError, match="Checksum failure"):
        stream.prepare_shard(shard)
    assert stream.prepare_shard(shard) == 0 and (tmp_path / "c" / damaged.name).exists()


def test_plain_streaming_reads_files_outside_of_the_dataset(folder, tmp_path):
    index = index_of(folder)
    shard_files(folder)[0].rename(tmp_path / "secret")
    index["shards"][0]["raw_data"]["basename"] = "../secret"
    write_index(folder, index)
    assert StreamingDataset(local=str(folder), batch_size=8)[0]["id"] == "0"


def test_workers_of_plain_streaming_share_one_connection_to_the_store(folder, tmp_path, s3, monkeypatch):
    """Forked with the client that fetched the index, they read each other's answers, wrong bytes, or wait for ever."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    shutil.copytree(folder, s3.bucket("cures") / "data")
    dataset = StreamingDataset(remote="s3://cures/data", local=str(tmp_path / "cache"), batch_size=8)
    assert dataset.streams[0]._downloader._s3_client is not None
    dataset = ours(folder, tmp_path, local=None, remote="s3://cures/data")
    assert dataset.streams[0]._downloader._s3_client is None


def test_plain_streaming_goes_on_in_another_order_without_a_word(folder, tmp_path):
    options = {"shuffle": True, "shuffle_seed": 3, "num_canonical_nodes": 4}
    state = plain(folder, tmp_path, shuffle_block_size=32, **options).state_dict(8, True)
    plain(folder, tmp_path, shuffle_block_size=64, **options).load_state_dict(state)
    refusing = ours(folder, tmp_path, shuffle_block_size=64)
    state = ours(folder, tmp_path, shuffle_block_size=32).state_dict(8, True)
    with pytest.raises(ConfigError, match="shuffle_block_size: was 32, is 64"):
        refusing.load_state_dict(state)


def test_plain_streaming_locks_for_every_sample_also_when_its_shard_is_here(folder, tmp_path, monkeypatch):
    locks = []

    class Counted(streaming_dataset.FileLock):
        def acquire(self, *arguments: Any, **options: Any) -> Any:
            locks.append(self)
            return super().acquire(*arguments, **options)

    datasets = (StreamingDataset(local=str(folder), batch_size=8), ours(folder, tmp_path))
    monkeypatch.setattr(streaming_dataset, "FileLock", Counted)
    counts = []
    for dataset in datasets:
        locks.clear()
        for _ in range(5):
            dataset.prepare_shard(0, blocking=False)
        counts.append(len(locks))
    assert counts == [5, 0]


def test_plain_streaming_deletes_a_dataset_that_it_takes_for_a_cache(folder, tmp_path):
    limit = 5 * max(path.stat().st_size for path in shard_files(folder))
    dataset = StreamingDataset(local=str(folder), batch_size=8, cache_limit=limit)
    dataset._evict_coldest_shard()
    assert not all(path.exists() for path in shard_files(folder))
    other = write_shards(tmp_path / "other")
    with pytest.raises(ConfigError) as refused:
        ours(other, tmp_path, cache_limit=limit)
    assert str(refused.value) == (
        f"data.train.cache_limit: {other} is no copy; a limit would delete it. Leave it out, or set remote too"
    )


def test_the_index_of_plain_streaming_grows_with_the_samples():
    assert len(Spanner(np.array([10_000_000])).spans) > 9000


def test_plain_streaming_takes_a_batch_that_cannot_be_split_and_we_do_not(folder, tmp_path, monkeypatch):
    for name, value in {"WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="a global batch of 8 cannot be split over 3 ranks"):
        ours(folder, tmp_path)
    for name, value in {"LOCAL_WORLD_SIZE": "1", "WORLD_SIZE": "8", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="num_canonical_nodes, 4, is not a multiple of 8 nodes"):
        ours(folder, tmp_path)
