"""The order of an epoch: the same for every layout, no sample twice, exact repeats."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from maws_composer.data.order import ALGORITHM, EvalOrder, Order, Seat, TrainOrder

SIZES = np.array([50, 3, 41, 17, 60, 29, 2, 38], np.int64)


def train_order(sizes=SIZES, **changes) -> TrainOrder:
    order = TrainOrder(
        np.asarray(sizes), (len(sizes),), (1.0,),
        seed=5, canonical_nodes=12, global_batch_size=24, shuffle=True, block_size=20,
    )  # fmt: skip
    return replace(order, **changes)


def deal(order: Order, epoch: int, start: int, nodes: int, ranks: int, workers: int, global_batch: int = 24):
    """Every worker's part, as lists of (position, id), in the order in which it yields them."""
    parts = {}
    batch = global_batch // (nodes * ranks)
    for node in range(nodes):
        plan = np.full(order.node_samples(start, nodes), -1, np.int64)
        order.fill_node_plan(plan, epoch, start, node, nodes)
        for rank, worker in itertools.product(range(ranks), range(workers)):
            rows = Seat(node, nodes, rank, ranks, worker, workers, batch).rows(len(plan))
            positions = order.positions(rows, start, node, nodes)
            parts[node, rank, worker] = list(zip(positions.tolist(), plan[rows].tolist(), strict=True))
    return parts


def whole(order: TrainOrder, epoch: int) -> list[int]:
    """The ids of an epoch by position, as one process would see them."""
    plan = np.empty(order.size, np.int64)
    order.fill_node_plan(plan, epoch, 0, 0, 1)
    return plan.tolist()


LAYOUTS = [
    (nodes, ranks, workers)
    for nodes, ranks, workers in itertools.product((1, 2, 3, 4, 6, 12), (1, 2, 3, 4), (1, 2, 3))
    if 24 % (nodes * ranks) == 0
]


@pytest.mark.parametrize("repeats", [(1.0, 1.0), (2.0, 0.5), (1.7, 0.31)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_layout_deals_the_same_sample_to_each_position_from_any_batch_on(repeats, shuffle):
    order = train_order(shards_per_stream=(5, 3), repeats=repeats, shuffle=shuffle)
    for epoch in range(2):
        expected = whole(order, epoch)
        for nodes, ranks, workers in LAYOUTS:
            for start in range(0, order.size + 1, 24 * 3):
                dealt = deal(order, epoch, start, nodes, ranks, workers)
                rows = sorted(row for part in dealt.values() for row in part)
                assert rows == list(enumerate(expected))[start:]


def test_each_batch_of_a_worker_is_its_share_of_one_global_batch():
    order = train_order()
    for nodes, ranks, workers in LAYOUTS:
        size = 24 // (nodes * ranks)
        for (_, _, worker), part in deal(order, 0, 48, nodes, ranks, workers).items():
            for j, begin in enumerate(range(0, len(part), size)):
                batches = {position // 24 for position, _ in part[begin : begin + size]}
                assert batches == {2 + j * workers + worker}


def test_no_sample_comes_twice_and_what_is_left_out_differs_from_epoch_to_epoch():
    for sizes in (SIZES, [int(SIZES.sum())]):  # several shards; a single one
        order = train_order(sizes)
        assert order.size == 240 // 24 * 24 and order.draws == 240
        order = replace(order, global_batch_size=36, canonical_nodes=4)
        assert order.size == 216 and order.left_out == 24
        missing = [frozenset(range(240)) - frozenset(whole(order, epoch)) for epoch in range(200)]
        assert all(len(left) == 24 for left in missing)
        assert len(set(missing)) > 100
        counts = np.bincount([i for left in missing for i in left], minlength=240)
        assert counts.min() > 0 and abs(counts.mean() - 20) < 1e-9
        # Each sample is left out with probability 24 / 240.
        assert counts.max() < 20 + 6 * (200 * 0.1 * 0.9) ** 0.5


@pytest.mark.parametrize("repeat", [0.3, 1.0, 1.5, 2.25, 3.0])
def test_repeats_are_exact_and_their_fraction_falls_on_single_samples_afresh_each_epoch(repeat):
    order = train_order(repeats=(repeat,), canonical_nodes=1, global_batch_size=1)
    n, epochs = int(SIZES.sum()), 400
    assert order.size == int(repeat * n)
    extra = np.zeros(n)
    for epoch in range(epochs):
        counts = np.bincount(whole(order, epoch), minlength=n)
        assert counts.sum() == int(repeat * n)
        assert set(counts) <= {int(repeat), int(repeat) + 1}
        extra += counts - int(repeat)
    share = int(repeat * n) / n - int(repeat)
    assert (abs(extra - epochs * share) <= 5 * (epochs * share * (1 - share)) ** 0.5).all()


def test_each_stream_is_repeated_as_often_as_it_says():
    order = train_order(shards_per_stream=(3, 5), repeats=(2.5, 0.25), canonical_nodes=1, global_batch_size=1)
    first = int(SIZES[:3].sum())
    for epoch in range(5):
        counts = np.bincount(whole(order, epoch), minlength=240)
        assert counts[:first].sum() == int(2.5 * first)
        assert counts[first:].sum() == int(0.25 * (240 - first))


def test_a_sample_moves_less_than_a_block_and_shards_move_as_a_whole():
    order = train_order([1000], canonical_nodes=1, global_batch_size=10, block_size=50)
    ids = np.array(whole(order, 0))
    moved = (ids - order._window_begin(0)) % 1000 - np.arange(1000)
    assert 10 < abs(moved).max() < 50
    order = train_order([10] * 100, canonical_nodes=1, global_batch_size=10, block_size=1)
    shards = [shard for shard, _ in itertools.groupby(np.array(whole(order, 0)) // 10)]
    assert 100 <= len(shards) <= 101 and shards != sorted(shards)


def test_a_block_larger_than_the_epoch_mixes_it_evenly():
    order = train_order([240], canonical_nodes=1, global_batch_size=24, block_size=1 << 18)
    first_half = Counter(i for epoch in range(300) for i in whole(order, epoch)[:120])
    counts = np.array([first_half[i] for i in range(240)])
    assert (abs(counts - 150) < 5 * 75**0.5).all()


def test_epochs_and_seeds_differ():
    orders = [train_order(seed=seed) for seed in (0, 1)]
    assert len({tuple(whole(order, epoch)) for order in orders for epoch in range(3)}) == 6


def test_without_shuffling_samples_come_as_stored_and_an_epoch_goes_on_where_the_last_ended():
    order = train_order(shuffle=False, canonical_nodes=1, global_batch_size=100)
    assert order.size == 200
    for epoch in range(3):
        assert whole(order, epoch) == [i % 240 for i in range(200 * epoch, 200 * (epoch + 1))]


@pytest.mark.parametrize("samples", [1, 23, 24, 25, 100, 240])
def test_evaluation_sees_every_sample_once_and_knows_its_padding(samples):
    order = EvalOrder(samples, 24)
    for nodes, ranks, workers in LAYOUTS:
        rows = [row for part in deal(order, 0, 0, nodes, ranks, workers).values() for row in part]
        assert len(rows) == order.size == -(-samples // 24) * 24
        valid = order.valid(np.array([position for position, _ in rows]))
        assert sorted(row for row, is_sample in zip(rows, valid, strict=True) if is_sample) == [
            (i, i) for i in range(samples)
        ]


def test_the_order_stays_what_it_was():
    """Whoever changes it has to raise ALGORITHM, so that older checkpoints refuse to go on in another order."""
    digests = []
    for shuffle, repeats in ((True, (1.0, 1.0)), (True, (1.7, 0.31)), (False, (0.5, 2.0))):
        order = train_order(shards_per_stream=(5, 3), repeats=repeats, shuffle=shuffle)
        ids = np.array([whole(order, epoch) for epoch in range(3)])
        digests.append(hashlib.sha256(ids.tobytes()).hexdigest()[:16])
    assert (ALGORITHM, digests) == (1, ["66bab4b6ed2bbfa5", "bfc5a579b61d285a", "e05c6ab1b52eca59"])


def test_fractions_of_streams_of_billions_are_exact():
    """Products of sample counts do not fit in 64 bits there."""
    sizes = np.full(2000, 2_500_000, np.int64)
    order = train_order(sizes, repeats=(0.999_999_999_9,))
    sequence = order._sequence(0)
    assert sequence.end[-1] == order.draws == int(0.999_999_999_9 * 5e9)
    assert (sequence.count <= 2_500_000).all() and sequence.count.min() >= 2_499_999
