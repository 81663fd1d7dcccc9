"""Several crops of an image in one batch: it is decoded once, each crop is a sample, on any number of processes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint._nested_dict import flatten_state_dict

from maws_composer.checkpoints.resume import _forget_newer_settings
from maws_composer.config.plugins import load_with_ours
from maws_composer.config.problems import ConfigError
from maws_composer.config.run import check_world_size
from maws_composer.data import loader
from maws_composer.data.decode import decode
from maws_composer.data.fingerprint import changes
from maws_composer.data.order import TrainOrder
from maws_composer.data.preflight import check_data, repetition_problems, report_epoch
from maws_composer.data.transforms import RandomCropAndFlip
from tests.data import reader
from tests.data.shards import png, write_shards
from tests.processes import ROOT

CROPS, BATCH, COUNT = 4, 16, 100


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = write_shards(tmp_path_factory.mktemp("repeated") / "data", COUNT)
    return {"local": str(folder), "num_canonical_nodes": 4, "repeated_augmentation": CROPS}


def global_batches(results: list[dict[str, Any]]) -> dict[int, list[Any]]:
    """Position -> the rest of its row, over all ranks."""
    assert not [result["error"] for result in results if result["error"]]
    return {row[1]: row for result in results for row in result["rows"]}


def test_an_image_is_decoded_once_and_its_crops_are_those_of_their_positions(
    train: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: Counter[bytes] = Counter()

    def counting(data: bytes, max_pixels: int) -> Any:
        decoded[data] += 1
        return decode(data, max_pixels)

    monkeypatch.setattr(loader, "_decoder", lambda data: counting)
    spec = loader.build_train_loader(reader.settings({"train": train, "scratch": str(tmp_path)}))
    batches = list(spec.dataloader)
    assert set(decoded.values()) == {1} and len(decoded) == COUNT // 4 * 4
    assert spec.num_samples == len(batches) * BATCH == COUNT * CROPS
    crop = RandomCropAndFlip(7, reader.SIZE, (0.2, 1.0), (0.75, 1.3333333), True)
    for number, batch in enumerate(batches):
        assert spec.get_num_samples_in_batch(batch) == BATCH
        assert batch["position"].tolist() == list(range(number * BATCH, (number + 1) * BATCH))
        assert batch["id"] == batch["id"][: BATCH // CROPS] * CROPS
        for image, name, position in zip(batch["image"], batch["id"], batch["position"].tolist(), strict=True):
            assert torch.equal(image, crop(decode(png(int(name)), 10**6), 0, position))


def test_world_sizes_see_the_same_batches_also_resumed_in_the_middle(train: dict[str, Any], tmp_path: Path) -> None:
    def scenario(**changed: Any) -> dict[str, Any]:
        return {"train": train, "batch": BATCH, "scratch": str(tmp_path), **changed}

    whole, cut = reader.run([scenario(), scenario(batches=3, workers=2)])
    expected = global_batches(whole)
    assert len(expected) == whole[0]["samples"] == COUNT * CROPS
    resumed, on_two = reader.run([scenario(resume=cut[0]["state"]), scenario(workers=1)], world_size=2)
    assert global_batches(on_two) == expected
    assert global_batches(resumed) == {position: row for position, row in expected.items() if position >= 3 * BATCH}
    for rank in on_two:
        ids = [row[4] for row in rank["rows"][: BATCH // 2]]
        assert set(Counter(ids).values()) == {CROPS}  # all crops of an image on one rank


def test_crops_of_an_epoch_have_every_position_once_and_stay_in_their_batch() -> None:
    order = TrainOrder(np.array([60]), (60,), (1.0,), 0, 4, 6, shuffle=True, block_size=8, crops=5)
    positions = [order.crop_positions(image) for image in range(order.size)]
    assert sorted(position for each in positions for position in each) == list(range(order.size * 5))
    for image, each in enumerate(positions):
        assert {position // 30 for position in each} == {image // 6}
        for world_size in (1, 2, 3, 6):  # as `TrainOrder` deals positions to ranks
            assert {position % world_size for position in each} == {image % world_size}


def test_world_sizes_that_would_tear_an_image_apart_are_refused_with_one_that_works(train: dict[str, Any]) -> None:
    run = reader.settings({"train": train, "scratch": "/nowhere"})
    assert check_world_size(run, 4) == []
    (problem,) = check_world_size(run, 8)
    assert problem.path == "global_train_batch_size"
    assert problem.message.splitlines() == [
        "4 images with 4 crops each cannot be split over 8 GPUs; use 4",
        "a global_train_batch_size of 16 can be split over 1, 2, 4 GPUs",
    ]


def test_the_epoch_is_counted_in_crops(train: dict[str, Any], tmp_path: Path) -> None:
    run = reader.settings({"train": train, "scratch": str(tmp_path)})
    assert check_data(run, 1, 1) == []
    dataset = loader.build_train_loader(run).dataloader.dataset
    epoch = report_epoch(dataset.order, [stream.index for stream in dataset.streams], run.data.train)
    assert (epoch.samples, epoch.samples_per_epoch, epoch.unit) == (COUNT * CROPS, COUNT * CROPS, BATCH)


def test_another_number_of_crops_is_another_order_and_older_checkpoints_had_one() -> None:
    order = TrainOrder(np.array([60]), (60,), (1.0,), 0, 4, 6, shuffle=True, block_size=8)
    saved = {**order.fingerprint(), "streams": [], "resampling": None}
    older = {name: value for name, value in saved.items() if name != "repeated_augmentation"}
    assert changes(older, saved) == []
    (problem,) = changes(older, {**saved, "repeated_augmentation": 2})
    assert problem.path == "data.train.repeated_augmentation" and problem.message.startswith("was 1, is 2;")


def test_what_an_older_checkpoint_does_not_know_is_not_asked_for() -> None:
    order = {"algorithm": 1, "repeated_augmentation": 1, "streams": [{"name": "train", "samples": 60}]}
    state = {"dataset_state": {"train": {"epoch": 0, "order": order}, "eval": None}, "callbacks": {}}
    kept = {"epoch": 0, "order": {"algorithm": 1, "streams": order["streams"]}}
    older = set(flatten_state_dict({"state": {"dataset_state": {"train": kept}}})[0])
    _forget_newer_settings(state, older)
    assert state["dataset_state"]["train"] == kept
    _forget_newer_settings({"callbacks": {}}, older)  # of data that keeps nothing


@pytest.mark.parametrize(("column", "said"), [("image_embedding", "cannot be cropped"), ("caption", "count as wrong")])
def test_what_cannot_be_repeated_is_refused(column: str, said: str) -> None:
    assert repetition_problems(1, [column]) == repetition_problems(4, ["labels"]) == []
    (problem,) = repetition_problems(4, [column])
    assert problem.path == "data.train.repeated_augmentation" and said in problem.message


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["data.train.repeated_augmentation=3"], "3 crops of an image do not divide global_train_batch_size, 4096"),
        (["data.train.repeated_augmentation=2", "data.train.central_crop=true"], "all crops are the same"),
    ],
)
def test_what_makes_no_sense_is_told(given: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_with_ours(ROOT / "yamls/mae_vitb.yaml", ["data.train.local=x", *given])
    (problem,) = caught.value.problems
    assert problem.path == "data.train.repeated_augmentation" and said in problem.message
