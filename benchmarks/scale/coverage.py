"""Whether each sample comes exactly once in a pass, also where the number of GPUs changes in its middle, counted."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.scale.start import BATCH
from benchmarks.scale.synthetic import SAMPLES_PER_SHARD
from maws_composer.data.order import Ids, Seat, TrainOrder

CANONICAL_NODES, BLOCK_SIZE = 768, 1 << 18
GPUS_PER_NODE, WORKERS = 8, 8


@dataclass(frozen=True)
class Coverage:
    """What was counted.

    Attributes:
        samples: of the dataset.
        read: samples that came, with repetitions.
        distinct: samples that came at least once.
        epoch: samples that an epoch promises.
        seconds: on the clock.
    """

    samples: int
    read: int
    distinct: int
    epoch: int
    seconds: float

    @property
    def is_exact(self) -> bool:
        return self.read == self.distinct == self.epoch


def cover(samples: int, worlds: Sequence[int], seed: int = 0) -> Coverage:
    """Read an epoch, in equal parts on each of `worlds` GPUs, and mark each sample in a bitmap.

    Only the plans are made, by the code that a run calls, and dealt out to all loader workers of their node.
    """
    began = time.perf_counter()
    sizes = np.full(samples // SAMPLES_PER_SHARD, SAMPLES_PER_SHARD, np.int64)
    order = TrainOrder(sizes, (len(sizes),), (1.0,), seed, CANONICAL_NODES, BATCH, shuffle=True, block_size=BLOCK_SIZE)
    steps = order.size // BATCH
    seen = _Bitmap(samples)
    for part, world in enumerate(worlds):
        begin, end = (steps * number // len(worlds) * BATCH for number in (part, part + 1))
        for ids in _read(order, world, begin, end):
            seen.add(ids)
    return Coverage(samples, seen.marks, seen.count(), order.size, time.perf_counter() - began)


def _read(order: TrainOrder, world: int, begin: int, end: int) -> Iterator[Ids]:
    """The ids that a world of GPUs reads from one position of the epoch to another, of one canonical node at a time."""
    nodes, own = world // GPUS_PER_NODE, CANONICAL_NODES * GPUS_PER_NODE // world
    until = (end - begin) // nodes
    assert _are_dealt_out(until, nodes, BATCH // world)
    plan = np.empty(order.node_samples(begin, nodes), np.int64)
    for node in range(nodes):
        order.fill_node_plan(plan, 0, begin, node, nodes)
        for canonical_node in range(own):
            yield plan[canonical_node:until:own]


def _are_dealt_out(node_samples: int, nodes: int, share: int) -> bool:
    """Whether each sample of a node is one loader worker's, and no other's."""
    owners = np.zeros(node_samples, np.uint8)
    for rank in range(GPUS_PER_NODE):
        for worker in range(WORKERS):
            owners[Seat(0, nodes, rank, GPUS_PER_NODE, worker, WORKERS, share).rows(node_samples)] += 1
    return bool((owners == 1).all())


class _Bitmap:
    """One bit per sample."""

    def __init__(self, samples: int) -> None:
        self._bits = np.zeros((samples // SAMPLES_PER_SHARD, SAMPLES_PER_SHARD // 8), np.uint8)
        self.marks = 0

    def add(self, ids: Ids) -> None:
        self.marks += len(ids)
        shard = ids // SAMPLES_PER_SHARD
        present = np.bincount(shard, minlength=len(self._bits)) > 0
        row = np.cumsum(present) - 1
        marked = np.zeros((row[-1] + 1, SAMPLES_PER_SHARD), bool)
        marked.ravel()[ids + (row[shard] - shard) * SAMPLES_PER_SHARD] = True
        self._bits[present] |= np.packbits(marked, axis=1)

    def count(self) -> int:
        """Samples that are marked."""
        return sum(int(np.bitwise_count(part).sum()) for part in np.array_split(self._bits, 100))
