"""Shards that are missing or damaged, and stores that go away, are errors that name the shard, and nobody hangs."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.data import reader
from tests.data.shards import index_of, shard_files, write_shards
from tests.processes import ROOT
from tests.s3_server import S3Server

SOON = 60  # seconds


def remove(shard: Path) -> None:
    shard.unlink()


def flip_a_byte(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)


def cut_off(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-100])


def scenario(data: dict[str, Any], scratch: Path, **changes: Any) -> dict[str, Any]:
    train = {"num_canonical_nodes": 4, "shuffle_block_size": 16, "download_retry": 2, **data}
    return {"train": train, "batch": 8, "predownload": 8, "scratch": str(scratch), "epochs": 3, **changes}


FAULTS = [
    (remove, "{shard} could not be read in 2 attempts"),
    (flip_a_byte, "{shard} is damaged: its sha1 is not that of the index"),
    (cut_off, "{shard} is damaged: it has"),
]


def check(results: list[list[dict[str, Any]]], messages: list[str]) -> None:
    """Of each scenario: a rank fails, and whichever does says the same, soon; nobody hangs."""
    for ranks, message in zip(results, messages, strict=True):
        errors = [result["error"] for result in ranks if result["error"]]
        assert errors and all(message in error for error in errors), (message, errors)
        assert {result["kind"] for result in ranks if result["error"]} == {"ShardError"}
        assert max(result["seconds"] for result in ranks) < SOON


@pytest.mark.parametrize(
    ("world_size", "worker_counts"), [pytest.param(1, (0, 1, 2), marks=pytest.mark.slow), (2, (0, 2))]
)
def test_a_missing_or_damaged_shard_is_named_soon(tmp_path, world_size, worker_counts):
    scenarios, messages = [], []
    for number, (break_it, message) in enumerate(FAULTS):
        for workers in worker_counts:
            folder = write_shards(tmp_path / f"{number}-{workers}")
            shard = shard_files(folder)[4]
            break_it(shard)
            scenarios.append(scenario({"remote": str(folder)}, tmp_path / f"s{number}{workers}", workers=workers))
            messages.append(message.format(shard=shard))
    check(reader.run(scenarios, world_size), messages)


def test_a_missing_shard_of_a_local_dataset_is_named(tmp_path):
    folder = write_shards(tmp_path / "data")
    shard = shard_files(folder)[2]
    shard.unlink()
    results = reader.run([scenario({"local": str(folder)}, tmp_path / "s", workers=workers) for workers in (0, 2)])
    check(results, [f"{shard} is missing"] * 2)


@pytest.mark.parametrize(
    ("world_size", "workers"), [*(pytest.param(1, n, marks=pytest.mark.slow) for n in (0, 1)), (1, 2), (2, 1)]
)
def test_an_object_store_that_goes_away_is_an_error_that_names_a_shard(tmp_path, s3, world_size, workers):
    seconds = _with_dead_store(
        tmp_path, s3, world_size, scenario({"remote": "s3://bucket/data"}, tmp_path / "scratch", workers=workers)
    )
    assert seconds < SOON


@pytest.mark.parametrize("workers", [*(pytest.param(n, marks=pytest.mark.slow) for n in (0, 1)), 2])
def test_a_store_that_does_not_answer_is_an_error_that_names_the_shard_which_was_waited_for(tmp_path, s3, workers):
    write_shards(s3.bucket(f"frozen-{workers}") / "data", 200, 8)
    settings = scenario({"remote": f"s3://frozen-{workers}/data"}, tmp_path / "scratch", workers=workers)
    settings |= {"meet": str(tmp_path), "meet_after": 2, "loader_timeout": 6}
    ranks = reader.start([settings], environment=s3.environment)
    try:
        _wait_for(lambda: (tmp_path / "here").exists() or not ranks[0].process.is_alive())
        s3.freeze()
        (tmp_path / "go").touch()
        began = time.monotonic()
        while not ranks[0].output.read_text().count("\n[{"):
            assert time.monotonic() - began < SOON
            time.sleep(0.1)
    finally:
        s3.start()
    ((result,),) = reader.collect(ranks)
    shard = rf"waiting for s3://frozen-{workers}/data/shard\.\d+\.mds, of which \d+ of [\d,]+ bytes are here"
    assert re.search(rf"no batch for \d+ s, speed.loader_timeout is 6: {shard}", result["error"])
    assert result["kind"] == "ShardError"
    assert re.search(rf"no batch for [23] s: {shard}", result["log"])


@pytest.mark.slow
def test_a_dead_object_store_is_told_within_a_minute_with_the_default_settings(tmp_path, s3):
    data = {"remote": "s3://bucket/data", "download_retry": 6}
    assert _with_dead_store(tmp_path, s3, 1, scenario(data, tmp_path / "scratch", workers=2)) < SOON


def _with_dead_store(tmp_path: Path, s3: S3Server, world_size: int, settings: dict[str, Any]) -> float:
    """Stop the store in the middle of an epoch; seconds until the readers have ended."""
    write_shards(s3.bucket(f"bucket-{tmp_path.name}") / "data", 200, 8)
    settings["train"]["remote"] = f"s3://bucket-{tmp_path.name}/data"
    settings |= {"meet": str(tmp_path), "meet_after": 2}
    ranks = reader.start([settings], world_size, environment=s3.environment)
    try:
        _wait_for(lambda: (tmp_path / "here").exists() or not ranks[0].process.is_alive())
        s3.stop()
        (tmp_path / "go").touch()
        began = time.monotonic()
        (results,) = reader.collect(ranks)
        seconds = time.monotonic() - began
    finally:
        s3.start()
    errors = [result["error"] for result in results if result["error"]]
    assert errors and all(f"{settings['train']['remote']}/shard." in error for error in errors)
    assert any("could not be read in" in error and "Could not connect" in error for error in errors)
    assert "Attempt 1 of" in "".join(result["log"] for result in results)
    return seconds


def test_a_short_outage_is_waited_out(tmp_path, s3):
    write_shards(s3.bucket("outage") / "data", 200, 8)
    settings = scenario({"remote": "s3://outage/data", "download_retry": 6}, tmp_path / "scratch", epochs=1, workers=1)
    settings |= {"meet": str(tmp_path), "meet_after": 2}
    ranks = reader.start([settings], environment=s3.environment)
    _wait_for(lambda: (tmp_path / "here").exists() or not ranks[0].process.is_alive())
    s3.stop()
    (tmp_path / "go").touch()
    time.sleep(2)
    s3.start()
    ((result,),) = reader.collect(ranks)
    assert result["error"] is None and len(result["rows"]) == 200


def test_what_was_damaged_on_its_way_does_not_stay_in_the_cache(tmp_path):
    """Streaming checks a shard after it has its final name, and never again."""
    folder = write_shards(tmp_path / "data")
    shard = shard_files(folder)[3]
    good = shard.read_bytes()
    flip_a_byte(shard)
    settings = scenario({"remote": str(folder)}, tmp_path / "scratch", epochs=1)
    ((broken,),) = reader.run([settings])
    assert broken["error"]
    assert not [path for path in (tmp_path / "scratch").rglob(shard.name + "*")]
    shard.write_bytes(good)
    ((mended,),) = reader.run([settings])
    assert mended["error"] is None and len(mended["rows"]) == 96


def _wait_for(condition: Callable[[], bool], patience: float = 60) -> None:
    give_up = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_undecodable_images_are_replaced_by_the_next_of_their_shard_and_named(tmp_path):
    good = write_shards(tmp_path / "good", 26)
    last = index_of(good)["shards"][0]["samples"] - 1
    bad = {3, 4, last, 17}
    folder = write_shards(tmp_path / "bad", 26, bad=bad)
    base = {"train": {}, "eval": {"local": str(good)}, "scratch": str(tmp_path / "s")}
    whole, patched, with_workers = reader.run(
        [base, {**base, "eval": {"local": str(folder)}}, {**base, "eval": {"local": str(folder)}, "workers": 2}]
    )
    expected = {row[1]: row for row in whole[0]["rows"]}
    assert patched[0]["rows"] == with_workers[0]["rows"] and not patched[0]["error"]
    for epoch, position, replaced, valid, name, pixels in patched[0]["rows"]:
        ordinal = min(position, 25)
        # The next of its shard, and after the last the first.
        source = {3: 5, 4: 5, last: 0, 17: 18}.get(ordinal, ordinal)
        assert (replaced, valid) == (ordinal in bad, position < 26)
        assert name == str(source) and pixels == expected[source][5] and epoch == 0
    path = shard_files(folder)[0]
    assert (
        f"sample {last} cannot be used: image cannot be decoded: not an image of a known format "
        f"(sample {last} of {path}); 0 takes its place" in whole[0]["log"]
    )


def test_a_replaced_sample_keeps_the_randomness_of_the_position_that_failed(tmp_path):
    """The crop of a replacement is that of the position; so a repair of the image changes nothing else."""
    good = write_shards(tmp_path / "good", 26)
    folder = write_shards(tmp_path / "bad", 26, bad={3})
    whole, patched = reader.run([scenario({"local": str(path)}, tmp_path / "s", epochs=1) for path in (good, folder)])
    differ = [(a, b) for a, b in zip(whole[0]["rows"], patched[0]["rows"], strict=True) if a != b]
    ((before, after),) = differ
    assert before[:2] == after[:2] and (before[4], after[4]) == ("3", "4") and after[2]
    as_itself = next(row for row in whole[0]["rows"] if row[4] == "4")
    assert after[5] != as_itself[5]


def test_a_shard_without_any_image_is_an_error(tmp_path):
    folder = write_shards(tmp_path / "bad", 26, bad=range(26))
    ((result,),) = reader.run([scenario({"local": str(folder), "shuffle": False}, tmp_path / "s")])
    assert result["error"] == (
        f"no sample of {shard_files(folder)[0]} can be used; 0: image cannot be decoded: not an image of a known format"
    )


def test_pictures_above_the_pixel_limit_are_replaced(tmp_path):
    folder = write_shards(tmp_path / "data", 26)
    ((result,),) = reader.run([scenario({"local": str(folder), "max_pixels": 100}, tmp_path / "s")])
    assert "16 x 12 pixels, the limit is 100" in result["error"]


ENDS_EARLY = """
import sys, threading, time
from streaming.base.dataset import _ShardState
from maws_composer.data.loader import build_train_loader
from tests.data.reader import settings
from tests.data.test_faults import scenario

loader = build_train_loader(settings(scenario({"local": sys.argv[1]}, sys.argv[2]))).dataloader
states = loader.dataset._shard_states
for shard in range(len(loader.dataset.shards)):
    states[shard] = _ShardState.PREPARING  # by a process that is no more
batches = iter(loader)
threading.Thread(target=lambda: next(batches), daemon=True).start()
while not hasattr(loader.dataset, "_iterator"):
    time.sleep(0.01)
time.sleep(0.5)  # until a thread waits
print("over")
"""


def test_a_process_ends_although_a_thread_waits_for_a_shard_that_nobody_fetches(tmp_path):
    write_shards(tmp_path / "data")
    command = [sys.executable, "-c", ENDS_EARLY, str(tmp_path / "data"), str(tmp_path / "scratch")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("over\n"), done.stderr
