"""The images of the next batch are on their way to the GPU before a batch is handed over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from maws_composer.data import copy_ahead
from maws_composer.data.copy_ahead import ShardLoader, copied_ahead
from maws_composer.data.loader import build_train_loader
from tests.data import reader
from tests.data.shards import write_shards


def batches(count: int, side: int = 4) -> Iterator[dict[str, Any]]:
    for number in range(count):
        image = torch.full((8, 3, side, side), number, dtype=torch.uint8)
        yield {"id": [str(number)] * 8, "image": image, "position": torch.arange(8) + 8 * number}


class Streams:
    """CUDA's on a CPU: what they are told, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[str] = []
        self.events = 0
        monkeypatch.setattr(copy_ahead, "_copying_stream", lambda device: self)
        monkeypatch.setattr(torch.cuda, "stream", self._within)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self)
        monkeypatch.setattr(Tensor, "record_stream", lambda image, _: self.told.append(f"reads {int(image.max())}"))

    @contextmanager
    def _within(self, _: Any) -> Iterator[None]:
        yield

    def record_event(self) -> int:
        self.told.append(f"copied {self.events}")
        self.events += 1
        return self.events - 1

    def wait_event(self, event: int) -> None:
        self.told.append(f"waits for {event}")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_step_waits_for_its_own_copy_only_and_the_next_is_on_its_way(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = Streams(monkeypatch)
    received = []
    for batch in copied_ahead(batches(count), torch.device("cpu")):
        streams.told.append("step")
        received.append(batch)
    expected = list(batches(count))
    assert [batch["id"] for batch in received] == [batch["id"] for batch in expected]
    assert all(torch.equal(mine["image"], its["image"]) for mine, its in zip(received, expected, strict=True))
    turns = [[f"waits for {number}", f"reads {number}", "step"] for number in range(count)]
    ahead = [[f"copied {number}"] for number in range(1, count)] + [[]]
    flat = [word for before, turn in zip(ahead, turns, strict=False) for word in (*before, *turn)]
    assert streams.told == (["copied 0", *flat] if count else [])


def test_on_a_cpu_nothing_is_copied(tmp_path) -> None:
    folder = write_shards(tmp_path / "data")
    loader = build_train_loader(reader.settings({"train": {"local": str(folder)}, "scratch": str(tmp_path / "s")}))
    assert isinstance(loader.dataloader, ShardLoader) and loader.dataloader.images_to is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_what_arrives_on_a_gpu_is_what_was_sent_while_steps_read_slowly() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    busy = torch.randn(4096, 4096, device=device)
    sums = []
    for batch in copied_ahead(({**part, "image": part["image"].pin_memory()} for part in batches(50, 224)), device):
        assert batch["image"].device == device and batch["position"].device.type == "cpu"
        for _ in range(4):
            busy = (busy @ busy).clamp(-1, 1)
        sums.append(batch["image"].sum(dtype=torch.int64))
        del batch
    assert [int(one) for one in sums] == [number * 8 * 3 * 224 * 224 for number in range(50)]
