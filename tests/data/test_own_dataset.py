"""A user's dataset is read in our order, on any layout and resumed; and a wrong one is told before training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maws_composer import registry
from maws_composer.config.problems import ConfigError
from maws_composer.data.loader import build_train_loader
from maws_composer.data.own import SampleError
from maws_composer.data.preflight import check_data, report_own_epoch
from tests.data import reader
from tests.data.shards import png, write_shards
from tests.data.test_elastic_reading import by_position

USER = Path(__file__).parents[1] / "plugins" / "user" / "data.py"
BATCH = 16
COUNT = 103
SIZE = 96  # of an epoch: a multiple of the batch and of the canonical nodes
ADVICE = "; the order of samples would change. Set it back, or start a new run in another save_folder"


def scenario(folder: Path, count: int = COUNT, **changes: Any) -> dict[str, Any]:
    dataset = {"name": "my_images", "count": count, "side": 12}
    train = {"dataset": dataset, "num_canonical_nodes": 12}
    return {"train": train, "batch": BATCH, "scratch": str(folder), "code_paths": [str(USER)], **changes}


@pytest.fixture(autouse=True)
def entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers goes again."""
    registry.load_plugins([USER])
    monkeypatch.setattr(registry, "_entries", {named: dict(places) for named, places in registry._entries.items()})


def test_samples_positions_and_pixels_are_the_same_on_any_layout_also_resumed(tmp_path: Path) -> None:
    whole, cut = reader.run([scenario(tmp_path, epochs=2), scenario(tmp_path, batches=2, workers=2)])
    expected = by_position(whole)
    assert sorted(expected) == [(epoch, position) for epoch in (0, 1) for position in range(SIZE)]
    assert whole[0]["samples"] == whole[0]["length"] * BATCH == SIZE
    for epoch in (0, 1):
        ids = [row[2] for (of, _), row in expected.items() if of == epoch]
        assert len(set(ids)) == SIZE  # none twice
    state = cut[0]["state"]
    for world_size, nodes in ((2, 1), (4, 2)):
        fresh, on, on_with_workers = reader.run(
            [
                scenario(tmp_path, workers=2, epochs=2),
                scenario(tmp_path, resume=state, epochs=2),
                scenario(tmp_path, resume=state, workers=2, epochs=2),
            ],
            world_size,
            nodes,
        )
        assert by_position(fresh) == expected
        rest = {key: row for key, row in expected.items() if key >= (0, 2 * BATCH)}
        assert by_position(on) == by_position(on_with_workers) == rest
        for rank in fresh:  # each batch of a rank is its share of one global batch
            batches = [row[1] // BATCH for row in rank["rows"]]
            assert batches == [
                step for _ in (0, 1) for step in range(SIZE // BATCH) for _ in range(BATCH // world_size)
            ]


def test_all_are_mixed_and_what_is_left_out_differs_from_epoch_to_epoch(tmp_path: Path) -> None:
    ((whole,),) = reader.run([scenario(tmp_path, epochs=3)])
    numbers = [int(row[4].removeprefix("noise-")) for row in whole["rows"]]
    epochs = [numbers[begin : begin + SIZE] for begin in range(0, 3 * SIZE, SIZE)]
    assert len({frozenset(range(COUNT)) - frozenset(epoch) for epoch in epochs}) == 3
    first_batch = sorted(epochs[0][:BATCH])
    assert first_batch[0] < COUNT // 4 and first_batch[-1] > 3 * COUNT // 4


def test_evaluation_sees_every_sample_once(tmp_path: Path) -> None:
    base = scenario(tmp_path, eval={"dataset": {"name": "my_images", "count": COUNT, "side": 12}}, epochs=2)
    for results in reader.run([{**base, "workers": workers} for workers in (0, 2)], world_size=2):
        assert not any(result["error"] for result in results)
        rows = [row for result in results for row in result["rows"]]
        seen = sorted((position, name) for _, position, _, valid, name, _ in rows if valid)
        assert seen == [(number, f"noise-{number}") for number in range(COUNT) for _ in range(2)]
        assert len(rows) == 2 * -(-COUNT // 8) * 8


def make(folder: Path, getitem: Callable[[int], Any], size: int = 32, columns: tuple[str, ...] = ()) -> Any:
    """The loader of a dataset that is given by its function."""
    return build_train_loader(reader.settings(written(folder, getitem, size)), columns).dataloader


def written(folder: Path, getitem: Callable[[int], Any], size: int = 32) -> dict[str, Any]:
    class Given:
        def __len__(self) -> int:
            return size

        def __getitem__(self, number: int) -> Any:
            return getitem(number)

    def given() -> Given:
        return Given()

    registry.register("dataset", "given")(given)
    train = {"dataset": {"name": "given"}, "num_canonical_nodes": 4}
    return {"train": train, "scratch": str(folder), "classes": 5}


def test_another_takes_the_place_of_a_bad_sample(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def getitem(number: int) -> dict[str, Any]:
        if number in (3, 4):
            raise ValueError("nothing in it")
        return {"image": b"no picture" if number == 9 else png(number), "id": number}

    with caplog.at_level(logging.WARNING):
        rows = [
            (of, bool(replaced))
            for batch in make(tmp_path, getitem)
            for of, replaced in zip(batch["id"], batch["replaced"], strict=True)
        ]
    expected = [(str(number), False) for number in range(32) if number not in (3, 4, 9)]
    assert sorted(rows) == sorted([*expected, ("5", True), ("5", True), ("10", True)])
    assert "sample 3 cannot be read: nothing in it; 5 takes its place" in caplog.text
    assert "image cannot be decoded: not an image of a known format; 10 takes its place" in caplog.text


def test_what_goes_wrong_later_names_the_plugin_its_file_and_the_sample(tmp_path: Path) -> None:
    def getitem(number: int) -> dict[str, Any]:
        return {"image": png(number), "id": 1 / (number - 9)}

    with pytest.raises(SampleError, match=r"sample \d+ of the dataset given \(.*test_own_dataset.py:\d+\)"):
        for _ in make(tmp_path, lambda number: getitem(number) if number > 5 else {"image": png(1), "id": "a"}):
            pass


def test_labels_and_captions_are_read_under_other_names(tmp_path: Path) -> None:
    def getitem(number: int) -> dict[str, Any]:
        return {"jpg": png(number), "id": number, "tags": torch.arange(number % 3)}

    told = written(tmp_path, getitem)
    told["train"]["columns"] = {"image": "jpg", "labels": "tags"}
    batch = next(iter(build_train_loader(reader.settings(told), ("labels",)).dataloader))
    lengths = (batch["labels"] >= 0).sum(1).tolist()
    assert lengths == [int(of) % 3 for of in batch["id"]]


GOOD = {"image": png(1), "id": "a", "labels": [1], "caption": "a cat"}
WRONG = {  # what a sample is -> path and message
    "missing column": ({"id": "a"}, ".columns.image", "sample 0 of {} has no column image; it has id"),
    "wrong type": (
        {**GOOD, "image": torch.zeros(3, 8, 8)},
        ".columns.image",
        "sample 0 of {}: image is a Tensor; expected the bytes of an image file, or a PIL image",
    ),
    "no list": ({**GOOD, "labels": 3}, ".columns.labels", "sample 0 of {}: labels is a int; expected a list of class"),
    "no dimension": ({**GOOD, "labels": np.array(3)}, ".dataset", "sample 0 of {} has labels that are no list of int"),
    "no class": ({**GOOD, "labels": [5]}, ".dataset", "sample 0 of {} has label 5; there are classes 0 to 4"),
    "no dict": ((png(1), 3), ".dataset", "sample 0 of {} is a tuple; expected {{column: value}}"),
    "no image": ({**GOOD, "image": b"x"}, ".dataset", "none of 16 samples of {} can be used: image cannot be decoded:"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_sample_is_told_before_training(what: str, tmp_path: Path) -> None:
    sample, path, message = WRONG[what]
    told = written(tmp_path, lambda number: sample)
    (problem,) = check_data(reader.settings(told), 1, 1, ("labels",))
    assert problem.path == f"data.train{path}"
    assert problem.message.startswith(message.format(f"the dataset given ({__file__}:{line_of('given')})"))


def line_of(name: str) -> str:
    return registry.lookup("dataset", name).origin.rpartition(":")[2]


class NoDataset:
    def __len__(self) -> int:
        return 3


def fails() -> Any:
    raise OSError("no such disk")


class Odd(list):
    def fingerprint(self) -> int:
        return 3


MADE: dict[str, tuple[Callable[[], Any], str]] = {
    "no __getitem__": (NoDataset, "made a NoDataset, which has no __getitem__; expected a map-style dataset"),
    "empty": (list, "is empty; it was made with no arguments"),
    "an error": (fails, "cannot be made:\nTraceback (most recent call last):\n"),
    "no text": (lambda: Odd([1]), "fingerprint() returned 3; expected text"),
}


@pytest.mark.parametrize("what", MADE)
def test_what_is_no_dataset_is_told_before_training(what: str, tmp_path: Path) -> None:
    make, message = MADE[what]

    def given() -> Any:
        return make()

    registry.register("dataset", "given")(given)
    told = {"train": {"dataset": {"name": "given"}}, "scratch": str(tmp_path), "eval": {"dataset": {"name": "given"}}}
    problems = check_data(reader.settings(told), 1, 1)
    assert [problem.path for problem in problems] == ["data.train.dataset", "data.eval.dataset"]
    assert all(message in problem.message and __file__ in problem.message for problem in problems)
    if what == "an error":
        assert problems[0].message.endswith("OSError: no such disk") and "in fails" in problems[0].message
        first = problems[0].message.splitlines()[2]
        assert __file__ in first and first.endswith("in given")  # none of ours before it


def test_an_empty_dataset_is_told_with_what_it_was_made_with(tmp_path: Path) -> None:
    (problem,) = check_data(reader.settings(scenario(tmp_path, count=0)), 1, 1)
    assert "is empty; it was made with " in problem.message and "count: 0" in problem.message


def test_too_few_samples_for_an_epoch_are_told(tmp_path: Path) -> None:
    (problem,) = check_data(reader.settings(scenario(tmp_path, count=20)), 1, 1)
    assert (problem.path, problem.message[:26]) == ("data.train", "20 samples are too few: an")
    data = build_train_loader(reader.settings(scenario(tmp_path))).dataloader.dataset
    report = report_own_epoch(data.order, data.own)
    assert str(report).startswith("an epoch is 96 samples from the dataset my_images; 7 (6.80%) are left out of it")


def test_another_dataset_is_refused_at_a_resume(tmp_path: Path) -> None:
    def loader(**changes: Any) -> Any:
        told = scenario(tmp_path)
        told["train"] = {**told["train"], **changes}
        return build_train_loader(reader.settings(told)).dataloader.dataset

    named = scenario(tmp_path)["train"]["dataset"]
    state = loader().state_dict(32)
    loader(dataset={**named, "side": 20}).load_state_dict(state)  # it says that it is the same
    samples = "103 samples of the dataset my_images, fingerprint 'edition 0'"
    for changed, told in (
        ({"dataset": {**named, "edition": 1}}, f"data.train: was {samples}, is {samples[:-2]}1'"),
        ({"dataset": {**named, "count": 104}}, f"data.train: was {samples}, is {samples.replace('103', '104')}"),
        ({"repeat": 1.5}, "data.train.repeat: was 1, is 1.5"),
    ):
        with pytest.raises(ConfigError) as refused:
            loader(**changed).load_state_dict(state)
        assert str(refused.value) == told + ADVICE
    shards = write_shards(tmp_path / "shards")
    train = {"local": str(shards), "num_canonical_nodes": 12}
    with pytest.raises(ConfigError, match="fingerprint 'edition 0', is 100 samples in shards"):
        streamed = build_train_loader(reader.settings({"train": train, "scratch": str(tmp_path / "s")})).dataloader
        streamed.load_state_dict(state)


def test_fractions_of_a_pass_are_drawn_anew(tmp_path: Path) -> None:
    told = scenario(tmp_path, epochs=2)
    told["train"] = {**told["train"], "repeat": 1.5}
    ((whole,),) = reader.run([told])
    size = int(1.5 * COUNT) // 48 * 48
    for epoch in (0, 1):
        ids = [row[4] for row in whole["rows"] if row[0] == epoch]
        assert len(ids) == size and max(ids.count(one) for one in ids) == 2
