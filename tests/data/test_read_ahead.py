"""Which shards a loader process asks for while it reads, and when."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from streaming.base.dataset import _Iterator

from maws_composer.data.order import Seat
from maws_composer.data.read_ahead import read_ahead
from maws_composer.data.shard_readers import BisectingIndex
from maws_composer.data.shared_plan import PlannedSamples

SIZES = np.array([5, 1, 7, 3, 4])
SAMPLES = np.random.default_rng(0).permutation(np.repeat(np.arange(SIZES.sum()), 4))


def one_by_one(samples: Any, count: int) -> list[int]:
    """The shards that the first samples need, each sample looked at by itself, in the order of their first use."""
    of_sample = np.repeat(np.arange(len(SIZES)), SIZES)
    return list(dict.fromkeys(int(of_sample[samples[number]]) for number in range(count)))


def epoch() -> _Iterator:
    return _Iterator(PlannedSamples(SAMPLES, Seat(0, 1, 1, 2, 1, 2, batch_size=4)))


def test_the_shard_of_a_sample_and_of_many() -> None:
    index = BisectingIndex(SIZES)
    assert index.shards(SAMPLES).tolist() == [index[sample][0] for sample in SAMPLES]


def test_a_part_of_a_worker_s_samples_is_its_samples() -> None:
    samples = epoch().sample_ids
    assert samples[2:15].tolist() == [samples[number] for number in range(2, 15)] and len(samples) == 20


@pytest.mark.parametrize("at_once", [1, 4, 100])
@pytest.mark.parametrize("reach", [0, 3, 100])
def test_each_shard_is_asked_for_when_a_sample_of_it_comes_into_reach(reach: int, at_once: int) -> None:
    it, asked = epoch(), list[int]()

    def have(shard: int) -> None:
        assert one_by_one(it.sample_ids, it.prepare_index + 1)[-1] == shard or shard in asked
        asked.append(shard)

    def read_one() -> bool:
        """What the reading thread does meanwhile."""
        assert it.prepare_index <= it.yield_index + reach + 1
        it.yield_index = min(it.yield_index + 1, it.prepare_index)
        return False

    read_ahead(it, "prepare_index", reach, at_once, BisectingIndex(SIZES), read_one, have)
    assert it.prepare_index == it.total
    if reach == at_once == 100:
        assert len(asked) == len(set(asked))  # all in one go
    assert list(dict.fromkeys(asked)) == one_by_one(it.sample_ids, it.total)


def test_what_is_ready_ends_before_the_shard_that_is_waited_for() -> None:
    it, waited = epoch(), list[int]()

    def have(shard: int) -> None:
        waited.append(shard)

    read_ahead(it, "ready_index", 100, 100, BisectingIndex(SIZES), lambda: len(waited) == 3, have)
    *before, awaited = one_by_one(it.sample_ids, it.ready_index + 1)
    assert awaited == waited[-1] and before == waited[:-1]
