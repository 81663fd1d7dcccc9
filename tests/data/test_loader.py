"""Batches are as Composer and the stages expect them."""

from __future__ import annotations

import dataclasses

import torch
from composer.devices import DeviceCPU

from maws_composer.data.batches import collate, count_samples, split_batch
from maws_composer.data.loader import build_eval_loader, build_train_loader
from tests.data import reader
from tests.data.shards import write_shards


def sample(number: int) -> dict:
    return {
        "image": torch.full((3, 2, 2), number, dtype=torch.uint8),
        "id": str(number),
        "position": number,
        "epoch": 1,
        "replaced": False,
        "valid": number < 4,
    }


def test_microbatches_are_the_batch_cut_in_pieces_lists_too():
    batch = collate([(sample(number),) for number in range(5)])
    parts = split_batch(batch, 2)
    assert [part["id"] for part in parts] == [["0", "1"], ["2", "3"], ["4"]]
    assert torch.equal(torch.cat([part["image"] for part in parts]), batch["image"])
    assert [count_samples(part) for part in parts] == [2, 2, 0]
    assert len(split_batch(batch, 8)) == 1


def test_a_batch_has_the_promised_columns(tmp_path):
    folder = write_shards(tmp_path / "data")
    scenario = {"train": {"local": str(folder), "num_canonical_nodes": 4}, "scratch": str(tmp_path / "s")}
    spec = build_train_loader(reader.settings(scenario))
    assert (spec.num_samples, len(spec.dataloader)) == (96, 6)
    batch = DeviceCPU().batch_to_device(next(iter(spec.dataloader)))
    assert batch["image"].dtype == torch.uint8 and batch["image"].shape == (16, 3, 8, 8)
    assert {name: batch[name].dtype for name in ("position", "epoch", "replaced", "valid")} == {
        "position": torch.int64,
        "epoch": torch.int64,
        "replaced": torch.bool,
        "valid": torch.bool,
    }
    assert len(batch["id"]) == 16 and batch["valid"].all() and not batch["replaced"].any()
    assert spec.get_num_samples_in_batch(batch) == 16


def test_without_evaluation_data_there_is_no_loader(tmp_path):
    assert build_eval_loader(reader.settings({"train": {"local": "x"}, "scratch": str(tmp_path)})) is None


def test_images_of_loader_processes_need_no_files_in_shared_memory(tmp_path):
    folder = write_shards(tmp_path / "data")
    batches = {}
    for workers in (0, 2):
        scenario = {"train": {"local": str(folder), "num_canonical_nodes": 4}, "scratch": str(tmp_path / str(workers))}
        run = dataclasses.replace(reader.settings({**scenario, "workers": workers}), model={"image_size": 96})
        batches[workers] = list(build_train_loader(run).dataloader)
    for alone, crossed in zip(batches[0], batches[2], strict=True):
        assert alone["id"] == crossed["id"] and torch.equal(alone["image"], crossed["image"])
        assert not crossed["image"].is_shared()
