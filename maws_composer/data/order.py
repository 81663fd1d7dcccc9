"""Which sample comes at which position of an epoch, for any number of nodes, GPUs and loader workers.

An epoch's *sequence* is all shards in random order, each as often as its stream is repeated. A window of the sequence
is cut into as many equal parts as there are canonical nodes, each part is shuffled within blocks, and the parts are
dealt out like cards: position g of the epoch is the (g // C)-th sample of canonical node g % C. Global batch k is
positions k * G to (k + 1) * G, whoever works on them.

With repeated augmentation the sequence is of images, of which a batch has G = crops / R, and each becomes R crops with
positions of their own: `crop_positions`.

With C divisible by the number of nodes, a node's positions are those of its own canonical nodes, so that it plans
only these: the plan costs what the node reads, not what the epoch holds.

Only sorting and raw bits of PCG64 decide here, which numpy keeps the same between versions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Numbers = TypeVar("Numbers", int, Ids)  # of one row, or of several

ALGORITHM = 1  # Raise it with every change of the order: an older run's checkpoint then refuses to resume.


@dataclass(frozen=True)
class Seat:
    """Who takes part of a node's samples: one loader worker of one rank.

    Args:
        node, nodes: this node, and how many there are.
        rank, ranks: this rank of the node, and how many a node has.
        worker, workers: this worker of the rank, and how many a rank has.
        batch_size: samples of a batch on one rank.
    """

    node: int
    nodes: int
    rank: int
    ranks: int
    worker: int
    workers: int
    batch_size: int

    def count(self, node_samples: int) -> int:
        """How many of the node's samples are this worker's."""
        steps = node_samples // (self.batch_size * self.ranks)
        return len(range(self.worker, steps, self.workers)) * self.batch_size

    def row(self, number: Numbers) -> Numbers:
        """Which of the node's samples is this worker's `number`-th, in the order in which it yields them."""
        own_step, in_batch = divmod(number, self.batch_size)
        step = own_step * self.workers + self.worker
        return (step * self.batch_size + in_batch) * self.ranks + self.rank

    def rows(self, node_samples: int) -> Ids:
        """Which of the node's samples are this worker's, in the order in which it yields them."""
        return self.row(np.arange(self.count(node_samples)))


class Order(Protocol):
    """The order of the rows of every epoch."""

    @property
    def size(self) -> int:
        """Rows of an epoch: whole global batches."""

    def node_samples(self, start: int, nodes: int) -> int:
        """How many rows a node has from position `start` on."""

    def fill_node_plan(self, plan: Ids, epoch: int, start: int, node: int, nodes: int) -> None:
        """Write the sample ids of a node's rows, from position `start` on, into `plan`."""

    def positions(self, rows: Numbers, start: int, node: int, nodes: int) -> Numbers:
        """Positions in the epoch of the node's rows."""

    def valid(self, positions: Numbers) -> Any:
        """Whether the row at a position is a sample, rather than padding."""

    @property
    def crops(self) -> int:
        """Samples that a row becomes."""

    def crop_positions(self, position: int) -> list[int]:
        """Positions, as samples know them, of what the row at a position becomes."""


@dataclass(frozen=True)
class EvalOrder:
    """Every sample once, as stored, then copies of the last up to a whole global batch.

    A position is the sample's ordinal. Each node reads one contiguous part, so that it fetches only that part's shards.
    """

    samples: int
    global_batch_size: int

    @property
    def size(self) -> int:
        return -(-self.samples // self.global_batch_size) * self.global_batch_size

    def node_samples(self, start: int, nodes: int) -> int:
        assert start == 0, "an evaluation is not resumed in the middle"
        return self.size // nodes

    def fill_node_plan(self, plan: Ids, epoch: int, start: int, node: int, nodes: int) -> None:
        ordinals = np.arange(len(plan)) + node * len(plan)
        plan[:] = np.minimum(ordinals, self.samples - 1)

    def positions(self, rows: Numbers, start: int, node: int, nodes: int) -> Numbers:
        return rows + node * (self.size // nodes)

    def valid(self, positions: Numbers) -> Any:
        return positions < self.samples

    @property
    def crops(self) -> int:
        return 1

    def crop_positions(self, position: int) -> list[int]:
        return [position]


@dataclass(frozen=True)
class Sequence:
    """All draws of an epoch, before they are cut and shuffled: `count` samples of each of `shard`, one after the other.

    Where `count` is less than the shard holds, they are a random subset, in the order of the shard.
    """

    shard: Ids
    count: Ids
    end: Ids


@dataclass(frozen=True)
class TrainOrder:
    """Epochs of whole global batches and of equal parts for the canonical nodes, no draw twice.

    Args:
        shard_sizes: samples of each shard, all streams one after the other.
        shards_per_stream: how many of these belong to each stream; with resampling, a group of shards is a stream.
        repeats: of each stream; int(repeat * n) draws of n samples, each of them floor(repeat) times or once more.
        seed: of the run.
        canonical_nodes: C above.
        global_batch_size: G above, in images.
        shuffle: without, shards and samples come as stored; an epoch begins where the one before it ended.
        block_size: how far a sample moves at most.
        crops: R above.
    """

    shard_sizes: Ids
    shards_per_stream: tuple[int, ...]
    repeats: tuple[float, ...]
    seed: int
    canonical_nodes: int
    global_batch_size: int
    shuffle: bool
    block_size: int
    crops: int = 1

    @property
    def unit(self) -> int:
        """An epoch is a multiple of this."""
        return math.lcm(self.canonical_nodes, self.global_batch_size)

    @cached_property
    def draws(self) -> int:
        """Draws of an epoch, those included that are left out."""
        return sum(int(repeat * int(sizes.sum())) for sizes, repeat in zip(self._streams(), self.repeats, strict=True))

    @property
    def size(self) -> int:
        return self.draws // self.unit * self.unit

    @property
    def left_out(self) -> int:
        """Draws left out of each epoch; others in each."""
        return self.draws - self.size

    def node_samples(self, start: int, nodes: int) -> int:
        return (self.size - start) // nodes

    def positions(self, rows: Numbers, start: int, node: int, nodes: int) -> Numbers:
        return rows * nodes + (start + node)

    def valid(self, positions: Numbers) -> Any:
        return positions >= 0

    def crop_positions(self, position: int) -> list[int]:
        """Positions, among the crops of an epoch, of those that an image becomes: all in one global batch.

        They are as far apart as the batch has images, so that every world size which divides that number has them on
        one rank.
        """
        batch, place = divmod(position, self.global_batch_size)
        return [(batch * self.crops + crop) * self.global_batch_size + place for crop in range(self.crops)]

    def fill_node_plan(self, plan: Ids, epoch: int, start: int, node: int, nodes: int) -> None:
        sequence, first_row, own = self._sequence(epoch), start // nodes, self.canonical_nodes // nodes
        for index in range(own):
            skipped = max(0, -(-(first_row - index) // own))
            ids = self._canonical_node(sequence, epoch, index * nodes + node)
            plan[skipped * own + index - first_row :: own] = ids[skipped:]

    def _canonical_node(self, sequence: Sequence, epoch: int, canonical_node: int) -> Ids:
        """The samples of one canonical node, in their order."""
        length = self.size // self.canonical_nodes
        begin = (self._window_begin(epoch) + canonical_node * length) % self.draws
        end = begin + length
        ids = self._expand(sequence, epoch, begin, min(end, self.draws))
        if end > self.draws:
            ids = np.concatenate([ids, self._expand(sequence, epoch, 0, end - self.draws)])
        if self.shuffle:
            ids = ids[_block_permutation(length, self.block_size, _bits(self.seed, epoch, 2, canonical_node))]
        return ids

    def _window_begin(self, epoch: int) -> int:
        """Where in the sequence, taken as a ring, the epoch begins: what is left out lies just before."""
        if self.shuffle:
            return int(_bits(self.seed, epoch, 1).random_raw()) % self.draws
        return epoch * self.size % self.draws

    def _sequence(self, epoch: int) -> Sequence:
        shards, counts = [], []
        first_shard = 0
        for stream, (sizes, repeat) in enumerate(zip(self._streams(), self.repeats, strict=True)):
            ids = np.arange(first_shard, first_shard + len(sizes))
            whole, rest = divmod(int(repeat * int(sizes.sum())), int(sizes.sum()))
            shards += [ids] * whole
            counts += [sizes] * whole
            if rest:
                shards.append(ids)
                counts.append(_spread(rest, sizes, _bits(self.seed, epoch, 3, stream)))
            first_shard += len(sizes)
        shard, count = np.concatenate(shards), np.concatenate(counts)
        if self.shuffle:
            order = np.argsort(_bits(self.seed, epoch, 4).random_raw(len(shard)), kind="stable")
            shard, count = shard[order], count[order]
        return Sequence(shard, count, count.cumsum())

    def _expand(self, sequence: Sequence, epoch: int, begin: int, end: int) -> Ids:
        """Sample ids of the draws from `begin` to `end` of the sequence."""
        a = int(np.searchsorted(sequence.end, begin, "right"))
        b = int(np.searchsorted(sequence.end, end, "left")) + 1
        shard, count = sequence.shard[a:b], sequence.count[a:b]
        offset = count.cumsum() - count
        ids = np.repeat(self._first_sample[shard] - offset, count) + np.arange(count.sum())
        for part in np.flatnonzero((count > 0) & (count < self.shard_sizes[shard])):
            rows = slice(offset[part], offset[part] + count[part])
            ids[rows] = self._first_sample[shard[part]] + self._subset(epoch, int(shard[part]), int(count[part]))
        skipped = begin - (int(sequence.end[a]) - int(count[0]))
        return ids[skipped : skipped + end - begin]

    def _subset(self, epoch: int, shard: int, count: int) -> Ids:
        """`count` samples of a shard, each subset equally likely, in the order of the shard."""
        noise = _bits(self.seed, epoch, 5, shard).random_raw(int(self.shard_sizes[shard]))
        return np.sort(np.argsort(noise, kind="stable")[:count])

    def _streams(self) -> list[Ids]:
        return np.split(self.shard_sizes, np.cumsum(self.shards_per_stream)[:-1])

    @cached_property
    def _first_sample(self) -> Ids:
        return self.shard_sizes.cumsum() - self.shard_sizes

    def fingerprint(self) -> dict[str, Any]:
        """What determines the order besides the shards themselves."""
        return {
            "algorithm": ALGORITHM,
            "seed": self.seed,
            "num_canonical_nodes": self.canonical_nodes,
            "global_train_batch_size": self.global_batch_size * self.crops,
            "repeated_augmentation": self.crops,
            "shuffle": self.shuffle,
            "shuffle_block_size": self.block_size,
        }


def _bits(*key: int) -> np.random.PCG64:
    return np.random.PCG64(np.random.SeedSequence(key))


def _spread(draws: int, sizes: Ids, bits: np.random.PCG64) -> Ids:
    """How many of the draws each shard gives: in proportion to its size, rounded so that all samples are alike.

    Systematic sampling: the shards in random order on a line, a draw at every (total / draws) samples of it.
    """
    noise = bits.random_raw(len(sizes) + 1)
    order = np.argsort(noise[:-1], kind="stable")
    total = int(sizes.sum())
    # Python integers: the products of two sample counts do not fit in 64 bits.
    reached = (sizes[order].cumsum().astype(object) * draws + int(noise[-1]) % total) // total
    counts = np.empty_like(sizes)
    counts[order] = np.diff(reached, prepend=0).astype(np.int64)
    return counts


def _block_permutation(length: int, block_size: int, bits: np.random.PCG64) -> Ids:
    """A random order in which each of `length` samples moves by less than `block_size`.

    Sorted by place + uniform(0, block size). Place and noise are packed into one integer with the index below them,
    since sorting plain integers is several times faster than sorting through an index.
    """
    index_bits = length.bit_length()
    fraction_bits = max(0, 63 - index_bits - (length + block_size).bit_length())
    key = (bits.random_raw(length) >> np.uint64(11)).astype(np.float64)
    key *= block_size * 2.0 ** (fraction_bits - 53)
    packed = key.astype(np.int64)
    packed += np.arange(length) << fraction_bits
    packed <<= index_bits
    packed |= np.arange(length)
    packed.sort()
    packed &= (1 << index_bits) - 1
    return packed
