"""Whether each sample comes exactly once in a pass, also where the number of GPUs changes in its middle, counted."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.memory import peak_memory
from benchmarks.scale.start import BATCH
from benchmarks.scale.synthetic import SAMPLES_PER_SHARD
from maws_composer.data.order import Ids, Seat, TrainOrder

CANONICAL_NODES, BLOCK_SIZE = 768, 1 << 18
GPUS_PER_NODE, WORKERS = 8, 8
_AT_ONCE = 4_000_000  # samples that are marked together


@dataclass(frozen=True)
class Coverage:
    """What was counted.

    Attributes:
        samples: of the dataset.
        read: samples that came, with repetitions.
        distinct: samples that came at least once.
        epoch: samples that an epoch promises.
        seconds: of CPU.
        memory: most resident bytes, those of the bitmap's file included.
    """

    samples: int
    read: int
    distinct: int
    epoch: int
    seconds: float
    memory: int

    @property
    def is_exact(self) -> bool:
        return self.read == self.distinct == self.epoch


@dataclass(frozen=True)
class _Part:
    """What one node reads of an epoch, from one position of it to another."""

    world: int
    begin: int
    end: int
    node: int

    @property
    def nodes(self) -> int:
        return self.world // GPUS_PER_NODE

    @property
    def samples(self) -> int:
        return (self.end - self.begin) // self.nodes


@dataclass
class _Progress:
    """How many parts are marked, the samples that they have, and the seconds of CPU that this took."""

    parts: int = 0
    samples: int = 0
    seconds: float = 0.0


def cover(samples: int, worlds: Sequence[int], folder: Path, seed: int = 0) -> Coverage:
    """Read an epoch, in equal parts on each of `worlds` GPUs, and mark each sample in a bitmap.

    Only the plans are made, by the code that a run calls, and dealt out to all loader workers of their node. A count
    that was ended goes on where it was, if `folder` is still there.
    """
    sizes = np.full(samples // SAMPLES_PER_SHARD, SAMPLES_PER_SHARD, np.int64)
    order = TrainOrder(sizes, (len(sizes),), (1.0,), seed, CANONICAL_NODES, BATCH, shuffle=True, block_size=BLOCK_SIZE)
    parts = _parts(order, worlds)
    assert all(_are_dealt_out(part) for part in parts if part.node == 0)
    file = folder / f"{samples}-{'-'.join(map(str, worlds))}-{seed}.json"
    done = _Progress(**json.loads(file.read_text())) if file.exists() else _Progress()
    seen = _Bitmap(samples, file.with_suffix(".bits"))
    plan = np.empty(0, np.int64)
    with tqdm(total=order.size, initial=done.samples, unit=" samples", unit_scale=True, mininterval=10) as bar:
        for part in parts[done.parts :]:
            began = time.process_time()
            size = order.node_samples(part.begin, part.nodes)
            plan = plan if len(plan) == size else np.empty(size, np.int64)
            order.fill_node_plan(plan, 0, part.begin, part.node, part.nodes)
            for first in range(0, part.samples, _AT_ONCE):
                seen.add(plan[first : min(first + _AT_ONCE, part.samples)])
            done.parts, done.samples = done.parts + 1, done.samples + part.samples
            done.seconds += time.process_time() - began
            new = file.with_suffix(".new")
            new.write_text(json.dumps(asdict(done)))
            new.rename(file)
            bar.update(part.samples)
    return Coverage(samples, done.samples, seen.count(), order.size, done.seconds, peak_memory())


def _parts(order: TrainOrder, worlds: Sequence[int]) -> list[_Part]:
    steps = order.size // BATCH
    bounds = [steps * number // len(worlds) * BATCH for number in range(len(worlds) + 1)]
    return [
        _Part(world, begin, end, node)
        for world, begin, end in zip(worlds, bounds, bounds[1:], strict=False)
        for node in range(world // GPUS_PER_NODE)
    ]


def _are_dealt_out(part: _Part) -> bool:
    """Whether each sample of a node is one loader worker's, and no other's."""
    owners = np.zeros(part.samples, np.uint8)
    for rank in range(GPUS_PER_NODE):
        for worker in range(WORKERS):
            seat = Seat(part.node, part.nodes, rank, GPUS_PER_NODE, worker, WORKERS, BATCH // part.world)
            owners[seat.rows(part.samples)] += 1
    return bool((owners == 1).all())


class _Bitmap:
    """One bit per sample, in a file: marking a sample a second time after a restart changes nothing."""

    def __init__(self, samples: int, file: Path) -> None:
        shape = (samples // SAMPLES_PER_SHARD, SAMPLES_PER_SHARD // 8)
        self._bits = np.memmap(file, np.uint8, "r+" if file.exists() else "w+", shape=shape)

    def add(self, ids: Ids) -> None:
        shard = ids // SAMPLES_PER_SHARD
        present = np.bincount(shard, minlength=len(self._bits)) > 0
        row = np.cumsum(present) - 1
        marked = np.zeros((row[-1] + 1, SAMPLES_PER_SHARD), bool)
        marked.ravel()[ids + (row[shard] - shard) * SAMPLES_PER_SHARD] = True
        self._bits[present] |= np.packbits(marked, axis=1)

    def count(self) -> int:
        """Samples that are marked."""
        return sum(int(np.bitwise_count(part).sum()) for part in np.array_split(self._bits, 100))
