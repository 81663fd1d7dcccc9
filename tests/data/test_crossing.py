"""What a rank gets of a batch that one of its loader processes made."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from maws_composer.data.batches import collate
from maws_composer.data.crossing import CrossingBatch, Slots

IMAGES = 4 * 3 * 96 * 96  # bytes


def batch(number: int) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(number)
    return {
        "image": torch.randint(256, (4, 3, 96, 96), dtype=torch.uint8, generator=draw),
        "id": [f"{number}-{row}" for row in range(4)],
        "position": torch.arange(4) + 4 * number,
        "valid": torch.tensor([True, False, True, True]),
        "labels": torch.empty(4, 0, dtype=torch.int64),
        "image_embedding": torch.randn(4, 5_000, generator=draw),
    }


def loader(slots: Slots, workers: int, prefetch_factor: int) -> DataLoader[dict[str, Any]]:
    def make(number: int) -> dict[str, Any]:
        slot, made = slots.take(), batch(number)
        for name in ("image", "position", "image_embedding"):
            if (room := slot.room(made[name].shape, made[name].dtype)) is not None:
                made[name] = room.copy_(made[name])
        return CrossingBatch(made, slot)

    options = {"num_workers": workers, "prefetch_factor": prefetch_factor, "multiprocessing_context": "fork"}
    return DataLoader(range(12), None, collate_fn=make, **options)


@pytest.mark.parametrize(
    ("per_worker", "size", "shared"),
    [
        (2, IMAGES + 4 * 4 * 5_000, set()),  # enough room
        (2, IMAGES, {"image_embedding"}),  # not for both
        (2, 1, {"image", "image_embedding"}),
    ],
)
def test_batches_arrive_whole_and_stay(per_worker: int, size: int, shared: set[str]) -> None:
    slots = Slots(2, per_worker, size, pin_memory=False)
    arrived = list(loader(slots, workers=2, prefetch_factor=2))  # none is overwritten while it is kept
    for number, found in enumerate(arrived):
        assert type(found) is dict and list(found) == list(batch(number))
        for name, expected in batch(number).items():
            if name == "id":
                assert found[name] == expected
                continue
            assert found[name].dtype == expected.dtype and torch.equal(found[name], expected)
            assert found[name].is_shared() == (name in shared)
            found[name].zero_()  # it is memory that may be written to


def test_without_a_free_slot_a_batch_crosses_as_pytorch_has_it() -> None:
    slots = Slots(1, 1, IMAGES + 4 * 4 * 5_000, pin_memory=False)
    arrived = list(loader(slots, workers=1, prefetch_factor=8))
    assert any(found["image"].is_shared() for found in arrived)
    for number, found in enumerate(arrived):
        assert torch.equal(found["image"], batch(number)["image"])


def test_a_loader_that_begins_anew_has_its_slots_again() -> None:
    def tokens(captions: Sequence[str]) -> Any:
        return {"input_ids": torch.arange(len(captions) * 20_000).view(len(captions), -1)}

    samples = [
        ({"image": batch(number // 4)["image"][number % 4], "caption": f"{number}", "valid": True},)
        for number in range(16)
    ]
    slots = Slots(1, 2, IMAGES + 8 * 4 * 20_000, pin_memory=False)
    batches = DataLoader(
        samples, 4, collate_fn=partial(collate, tokenizer=tokens, slots=slots),
        num_workers=1, persistent_workers=True, multiprocessing_context="fork",
    )  # fmt: skip
    for stop in (0, 1, 3):  # as after a rewind, or an evaluation that was cut off
        for number, found in zip(range(stop + 1), batches, strict=False):
            assert torch.equal(found["image"], batch(number)["image"])
            assert torch.equal(found["input_ids"], tokens("abcd")["input_ids"])
            assert not found["image"].is_shared() and not found["input_ids"].is_shared()
