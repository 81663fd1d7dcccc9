"""The shards that a loader process will need, in the order in which it will.

Streaming's two background threads look at each sample by itself, which costs a third of what reading it does, and takes
Python's lock away from the reading thread as often. Here they look at many at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import sleep
from typing import Literal

import numpy as np
from streaming.base.constant import TICK
from streaming.base.dataset import _Iterator

from maws_composer.data.shard_readers import BisectingIndex

Reached = Literal["prepare_index", "ready_index"]


def read_ahead(
    it: _Iterator,
    index: Reached,
    reach: int,
    at_once: int,
    shard_of: BisectingIndex,
    stopped: Callable[[], bool],
    have: Callable[[int], None],
) -> None:
    """Call `have` with each shard that comes into reach, and move an index of `it` along; until the epoch is over.

    Args:
        it: streaming's state of an epoch.
        index: the one that says for how many of its samples this was done.
        reach: samples beyond the one that is read.
        at_once: samples that are looked at together, at most.
        shard_of: of a sample.
        stopped: whether to give up.
        have: does what is to be done for a shard; may wait.
    """
    while not (stopped() or it.should_exit()):
        begin = getattr(it, index)
        end = min(it.yield_index + reach + 1, it.total, begin + at_once)
        if begin == it.total or it.ready_index == it.total:
            setattr(it, index, it.total)
            return
        if begin >= end:
            sleep(TICK)
            continue
        for first, shard in _first_uses(shard_of.shards(it.sample_ids[begin:end])):
            setattr(it, index, begin + first)
            have(shard)
            if stopped() or it.should_exit():
                return
        setattr(it, index, end)


def _first_uses(shards: np.ndarray) -> Iterator[tuple[int, int]]:
    """Each of them once: where it comes first, and which it is."""
    found, first = np.unique(shards, return_index=True)
    order = np.argsort(first)
    return zip(first[order].tolist(), found[order].tolist(), strict=True)
