"""Real processes read the same samples at the same positions, with the same pixels, however many they are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.data import reader
from tests.data.shards import write_shards

BATCH = 16
LAYOUTS = [(2, 1), (2, 2), (4, 2)]
MORE_LAYOUTS = [(3, 3), (4, 1), (4, 4), (6, 2), (6, 3)]
Rows = dict[tuple[int, int], Any]


@pytest.fixture(scope="module")
def train(tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("elastic")
    write_shards(folder / "a", 100, prefix="a")
    write_shards(folder / "b", 40, prefix="b")
    return {
        "streams": {
            "a": {"local": str(folder / "a")},
            "b": {"remote": str(folder / "b"), "repeat": 1.6},
        },
        "num_canonical_nodes": 12,
        "shuffle_block_size": 32,
    }


def by_position(results: list[dict[str, Any]]) -> Rows:
    """(epoch, position) -> the rest of the row, over all ranks."""
    assert not [result["error"] for result in results if result["error"]]
    rows = [row for result in results for row in result["rows"]]
    merged = {(epoch, position): rest for epoch, position, *rest in rows}
    assert len(merged) == len(rows)
    return merged


def check_layouts(train: dict[str, Any], layouts: list[tuple[int, int]], batch: int, folder: Path) -> None:
    def scenario(**changes: Any) -> dict[str, Any]:
        return {"train": train, "batch": batch, "scratch": str(folder), **changes}

    whole, cut = reader.run([scenario(epochs=2), scenario(batches=2, workers=2)])
    expected = by_position(whole)
    size = len(expected) // 2
    unit = math.lcm(train["num_canonical_nodes"], batch)
    assert size == whole[0]["samples"] == whole[0]["length"] * batch == (100 + 64) // unit * unit
    assert sorted(expected) == [(epoch, position) for epoch in (0, 1) for position in range(size)]
    state = cut[0]["state"]
    for world_size, nodes in layouts:
        results = reader.run(
            [
                scenario(workers=2),
                scenario(resume=state, epochs=2),
                scenario(resume=state, workers=2),
                scenario(batches=2),
            ],
            world_size,
            nodes,
        )
        assert all(set(result["sizes"]) == {batch // world_size} for ranks in results for result in ranks)
        assert all(result["length"] == size // batch for ranks in results for result in ranks)
        fresh, on, on_with_workers, cut = results
        assert by_position(fresh) == {key: row for key, row in expected.items() if key[0] == 0}
        rest = {key: row for key, row in expected.items() if key >= (0, 2 * batch)}
        assert by_position(on) == rest
        assert by_position(on_with_workers) == {key: row for key, row in rest.items() if key[0] == 0}
        state = cut[0]["state"]  # the next layout goes on where this one was cut
        for rank in fresh:  # each batch of a rank is its share of one global batch
            positions = [row[1] for row in rank["rows"]]
            share = batch // world_size
            assert [positions[i] // batch for i in range(0, len(positions), share)] == list(range(size // batch))


def test_samples_positions_and_pixels_are_the_same_on_any_layout_also_resumed(train, tmp_path):
    check_layouts(train, LAYOUTS, BATCH, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_same_on_more_layouts(train, tmp_path):
    check_layouts({**train, "num_canonical_nodes": 24}, MORE_LAYOUTS, 24, tmp_path)


def test_the_state_at_the_end_of_an_epoch_begins_the_next_and_another_order_is_refused(train, tmp_path):
    def scenario(**changes: Any) -> dict[str, Any]:
        return {"train": train, "batch": BATCH, "scratch": str(tmp_path), **changes}

    whole, ended = reader.run([scenario(epochs=2), scenario(epochs=1)])
    state = ended[0]["state"]
    b = train["streams"]["b"]
    changed = [
        scenario(seed=8),
        scenario(batch=32),
        scenario(train={**train, "num_canonical_nodes": 6, "shuffle_block_size": 64}),
        scenario(train={**train, "shuffle": False}),
        scenario(train={**train, "streams": {**train["streams"], "b": {**b, "repeat": 1.5}}}),
        scenario(train={**train, "streams": {"a": b, "b": train["streams"]["a"]}}),
        scenario(train={**train, "streams": {"a": train["streams"]["a"]}}),
    ]
    on, *refused = reader.run(
        [scenario(resume=state, epochs=2, workers=1), *({**change, "resume": state} for change in changed)]
    )
    # The first loop is the rest of the old epoch, which is nothing; the second is the new one.
    assert by_position(on) == {key: row for key, row in by_position(whole).items() if key[0] == 1}
    advice = "; the order of samples would change. Set it back, or start a new run in another save_folder"
    assert [result[0]["error"] for result in refused] == [
        f"seed: was 7, is 8{advice}",
        f"global_train_batch_size: was 16, is 32{advice}",
        f"data.train.num_canonical_nodes: was 12, is 6{advice}\ndata.train.shuffle_block_size: was 32, is 64{advice}",
        f"data.train.shuffle: was True, is False{advice}",
        f"data.train.streams.b.repeat: was 1.6, is 1.5{advice}",
        f"data.train.streams.a.repeat: was 1, is 1.6{advice}\n"
        f"data.train.streams.a: held 100 samples, holds 40 in other shards{advice}\n"
        f"data.train.streams.b.repeat: was 1.6, is 1{advice}\n"
        f"data.train.streams.b: held 40 samples, holds 100 in other shards{advice}",
        f"data.train.streams: were a, b, are a{advice}",
    ]


@pytest.mark.parametrize(("world_size", "nodes"), [(1, 1), (3, 1), (4, 2)])
def test_evaluation_sees_every_sample_once_with_the_same_pixels(train, tmp_path, world_size, nodes):
    folder = train["streams"]["a"]["local"]
    base = {"train": train, "eval": {"local": folder, "resize": 10}, "scratch": str(tmp_path), "epochs": 2}
    for results in reader.run([{**base, "workers": workers} for workers in (0, 2)], world_size, nodes):
        assert not any(result["error"] for result in results)
        rows = [row for result in results for row in result["rows"]]
        assert {row[0] for row in rows} == {0}
        seen = sorted((position, name) for _, position, _, valid, name, _ in rows if valid)
        assert seen == [(i, f"a{i}") for i in range(100) for _ in range(2)]
        padded = [position for _, position, _, valid, _, _ in rows if not valid]
        assert len(rows) == len(seen) + len(padded) == 2 * -(-100 // (4 * world_size)) * 4 * world_size
        assert all(position >= 100 for position in padded)
