"""Labels reach the batch, and whatever is wrong with them is told before training."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from streaming import MDSWriter

from maws_composer.data.batches import collate, split_batch
from maws_composer.data.class_preflight import class_problems
from maws_composer.data.classes import Classes
from maws_composer.data.columns import DATASET_FILE
from maws_composer.data.loader import build_train_loader
from maws_composer.data.preflight import check_data, report_epoch
from maws_composer.data.settings import EvalData, Resampling
from maws_composer.data.sources import evaluation_shards
from tests.data import reader
from tests.data.shards import index_of, png, write_index, write_shards
from tests.labelled import classes_of, write_labelled

LABELS = [[n % 5] if n % 3 else [n % 5, (n + 1) % 5] for n in range(60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled(tmp_path_factory.mktemp("labels") / "data", LABELS)


def write_foreign(folder: Path, labels: list[list[int]]) -> Path:
    """Shards without `dataset.json`, with the classes of `LABELS`."""
    columns = {"image": "bytes", "id": "str", "labels": "ndarray:int32"}
    with MDSWriter(out=str(folder), columns=columns, hashes=["sha1"], size_limit=1 << 13) as writer:
        for number, of_image in enumerate(labels):
            writer.write({"image": png(number), "id": str(number), "labels": np.array(of_image, np.int32)})
    (folder / "classes.json").write_text(classes_of(LABELS).to_json())
    return folder


def check(scratch: Path, train: Path, num_classes: int = 5, **scenario: Any) -> list[str]:
    data = {"local": str(train), "num_canonical_nodes": 4, "max_left_out_share": 0.5}
    run = reader.settings({"train": data, "scratch": str(scratch / "scratch"), "classes": num_classes, **scenario})
    return [f"{problem.path}: {problem.message}" for problem in check_data(run, 1, 1, ["labels"])]


def test_collating_fills_labels_up_and_microbatches_keep_them():
    samples = [{"valid": True, "labels": np.array(labels)} for labels in ([3], [1, 2, 7], [0, 4])]
    batch = collate([(sample,) for sample in samples])
    assert batch["labels"].dtype == torch.int64
    assert batch["labels"].tolist() == [[3, -1, -1], [1, 2, 7], [0, 4, -1]]
    assert [part["labels"].tolist() for part in split_batch(batch, 2)] == [[[3, -1, -1], [1, 2, 7]], [[0, 4, -1]]]


def test_an_undecodable_image_brings_the_labels_of_the_one_in_its_place(tmp_path):
    columns = {"image": "bytes", "id": "str", "labels": "ndarray:int32"}
    with MDSWriter(out=str(tmp_path / "data"), columns=columns, hashes=["sha1"]) as writer:
        for number in range(16):
            image = b"no picture" if number == 3 else png(number)
            writer.write({"image": image, "id": str(number), "labels": np.array([number], np.int32)})
    train = {"local": str(tmp_path / "data"), "num_canonical_nodes": 1}
    scenario = {"train": train, "columns": ["labels"], "classes": 16, "scratch": str(tmp_path)}
    too_few = {**scenario, "classes": 15, "scratch": str(tmp_path / "too-few")}
    (rank,), (refused,) = reader.run([scenario, too_few])
    assert all(labels == [int(name)] for *_, name, _, labels in rank["rows"])
    assert sum(name == "4" for *_, name, _, _ in rank["rows"]) == 2
    assert refused["kind"] == "ShardError" and "has label 15; there are classes 0 to 14" in refused["error"]


def test_labels_that_fit_are_fine(folder, tmp_path):
    assert check(tmp_path, folder, eval={"local": str(folder)}) == []


def test_missing_or_unreadable_labels_are_told(folder, tmp_path):
    plain = write_shards(tmp_path / "plain", 60)
    assert check(tmp_path, plain) == [
        f"data.train.columns.labels: {plain} has no column labels; it has id, image",
        f"data.train.local: {plain} is not readable: it has no classes.json",
    ]
    floats = tmp_path / "floats"
    shutil.copytree(folder, floats)
    index = index_of(floats)
    for shard in index["shards"]:
        shard["column_encodings"] = [name.replace("int32", "float32") for name in shard["column_encodings"]]
    write_index(floats, index)
    assert check(tmp_path, floats) == [
        f"data.train.columns.labels: labels of {floats} is ndarray:float32, which is not read as labels"
    ]


def test_another_number_of_classes_is_told_with_the_right_one(folder, tmp_path):
    assert check(tmp_path, folder, num_classes=7) == [
        f"model.num_classes: is 7, {folder}/classes.json has 5 classes; set model.num_classes=5"
    ]


@pytest.mark.parametrize("at", [0, 59])
def test_a_label_that_is_no_class_is_told_before_training(at, folder, tmp_path):
    """In shards that others wrote, beside a fitting classes.json; in the first or the last of several."""
    labels = [[n % 5] for n in range(60)]
    labels[at] = [1, 7]
    foreign = write_foreign(tmp_path / "foreign", labels)
    shard = index_of(foreign)["shards"][-1 if at else 0]
    place = f"sample {shard['samples'] - 1 if at else 0} of {foreign}/{shard['raw_data']['basename']}"
    message = f"{at} ({place}) has label 7; there are classes 0 to 4"
    assert check(tmp_path, foreign) == [f"data.train.local: {message}"]
    assert check(tmp_path, folder, eval={"remote": str(foreign)}) == [f"data.eval.remote: {message}"]
    assert check(tmp_path, write_foreign(tmp_path / "fine", labels[1:-1])) == []


def test_a_negative_label_is_told_before_training(tmp_path):
    (problem,) = check(tmp_path, write_foreign(tmp_path / "foreign", [[0], [-1], *[[n % 5] for n in range(58)]]))
    assert problem.endswith("has label -1; classes are numbered from 0")


def test_thirds_need_classes_in_the_order_of_their_frequency(folder, tmp_path):
    classes = Classes.from_json((folder / "classes.json").read_text())
    rising = tuple(replace(each, count=count) for count, each in enumerate(classes.classes, 1))
    named = tmp_path / "named"
    shutil.copytree(folder, named)
    (named / DATASET_FILE).unlink()
    (named / "classes.json").write_text(replace(classes, classes=rising).to_json())
    shards = evaluation_shards(EvalData(local=str(named)))
    assert class_problems(5, shards, timeout=5) == []
    (problem,) = class_problems(5, shards, timeout=5, by_frequency=True)
    assert (problem.path, problem.message) == (
        "model.frequency_thirds",
        f"{named}/classes.json does not number its classes from the most frequent to the rarest; set it to false",
    )


def test_classes_of_another_dataset_are_told(folder, tmp_path):
    other = write_labelled(tmp_path / "other", LABELS)
    named_otherwise = classes_of(LABELS, "thing")
    (other / "classes.json").write_text(named_otherwise.to_json())
    message = f"{other}/classes.json is the classes.json of another dataset: dataset.json beside it names other classes"
    assert check(tmp_path, other) == [f"data.train.local: {message}"]
    (other / DATASET_FILE).unlink()  # shards that others wrote have none
    assert check(tmp_path, other) == []
    assert check(tmp_path, folder, eval={"local": str(other)}) == [
        f"data.eval.local: {other}/classes.json has other classes than {folder}/classes.json; "
        "label both with the same classes"
    ]
    (other / "classes.json").write_text("{")
    (problem,) = check(tmp_path, other)
    assert problem.startswith(f"data.train.local: {other}: classes.json is damaged")


def test_resampling_is_reported_and_needs_groups(folder, tmp_path):
    train = {"local": str(folder), "num_canonical_nodes": 1, "max_left_out_share": 0.5}
    train["resampling"] = Resampling(threshold=0.4)
    run = reader.settings({"train": train, "scratch": str(tmp_path), "classes": 5})
    assert check_data(run, 1, 1, ["labels"]) == []
    dataset = build_train_loader(run, ["labels"]).dataloader.dataset
    epoch = str(report_epoch(dataset.order, [stream.index for stream in dataset.streams], run.data.train))
    assert "60 images are resampled to " in epoch and "by threshold 0.4" in epoch
    plain = write_shards(tmp_path / "plain", 60)
    problems = check_data(reader.settings({"train": {**train, "local": str(plain)}, "scratch": str(tmp_path)}), 1, 1)
    assert [problem.message for problem in problems] == [f"{plain} is not readable: it has no dataset.json"]
