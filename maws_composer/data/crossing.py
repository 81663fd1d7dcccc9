"""How a batch crosses from a loader process to its rank.

PyTorch gives each tensor a file of its own in fresh shared memory. That costs 0.15 ms for an image of 224 x 224, a
fifth of decoding it, and for a small tensor as much as reading several samples; and `/dev/shm`, where these files lie,
is often small in containers. Here small tensors cross as bytes, and large ones in memory that is used over and over.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from itertools import count
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

_PIPE = 1 << 16  # bytes that a pipe takes at once
_LINE = 64  # bytes; where a tensor may begin

_keys = count()
_slots: WeakValueDictionary[int, Slots] = WeakValueDictionary()


class Slots:
    """Memory that a rank shares with the loader processes that it forks later; each has some slots for itself.

    Args:
        workers: loader processes.
        per_worker: batches that each of them may have on their way.
        size: bytes of the large tensors of a batch. Those that find no room cross as PyTorch has it.
        pin_memory: whether tensors arrive in pinned memory.
    """

    def __init__(self, workers: int, per_worker: int, size: int, pin_memory: bool) -> None:
        self._per_worker, self._pin_memory = per_worker, pin_memory
        size = -(-size // _LINE) * _LINE
        memory = mmap.mmap(-1, workers * per_worker * size)
        self._memory = torch.frombuffer(memory, dtype=torch.uint8).view(-1, size)
        self._taken = np.frombuffer(mmap.mmap(-1, workers * per_worker), np.bool_)
        self.key = next(_keys)
        _slots[self.key] = self

    def take(self) -> Slot:
        """In a loader process: a slot that is free; one without room, where none is."""
        worker = get_worker_info()
        assert worker is not None
        own = range(worker.id * self._per_worker, (worker.id + 1) * self._per_worker)
        number = next((number for number in own if not self._taken[number]), None)
        if number is None:
            return Slot(self.key, None, self._memory.new_empty(0))
        self._taken[number] = True
        return Slot(self.key, number, self._memory[number])

    def arrive(self, number: int | None, sent: Mapping[str, Any]) -> dict[str, Any]:
        """In the rank: the batch; its slot is free again."""
        batch = {name: self._arrived(number, value) for name, value in sent.items()}
        if number is not None:
            self._taken[number] = False
        return batch

    def _arrived(self, number: int | None, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return torch.from_numpy(value)
        if isinstance(value, _Placed):
            private = torch.empty(value.shape, dtype=value.dtype, pin_memory=self._pin_memory)
            return private.copy_(value.within(self._memory[number]))
        return value


class Slot:
    """Where a loader process puts the large tensors of a batch."""

    def __init__(self, key: int, number: int | None, memory: Tensor) -> None:
        self._key, self._number, self._memory = key, number, memory
        self._placed: dict[int, _Placed] = {}  # by address
        self._used = 0

    def room(self, shape: torch.Size, dtype: torch.dtype) -> Tensor | None:
        """For a tensor to be made there; None: it is small, or there is no room."""
        placed = _Placed(self._used, dtype, shape)
        if placed.size <= _PIPE or self._used + placed.size > len(self._memory):
            return None
        self._used += -(-placed.size // _LINE) * _LINE
        tensor = placed.within(self._memory)
        self._placed[tensor.data_ptr()] = placed
        return tensor

    def send(self, batch: Mapping[str, Any]) -> tuple[int, int | None, dict[str, Any]]:
        """What `_arrive` takes in the rank."""
        return self._key, self._number, {name: self._sent(value) for name, value in batch.items()}

    def _sent(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.nbytes <= _PIPE:
            return value.numpy()
        if value.data_ptr() not in self._placed and (room := self.room(value.shape, value.dtype)) is not None:
            value = room.copy_(value)  # made elsewhere, as tokens are
        return self._placed.get(value.data_ptr(), value)


class CrossingBatch(dict[str, Any]):
    """A batch that is still in a loader process; the rank gets a dict."""

    def __init__(self, batch: Mapping[str, Any], slot: Slot) -> None:
        super().__init__(batch)
        self._slot = slot

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, self._slot.send(self)


class _Placed(NamedTuple):
    """A tensor in a slot."""

    begin: int
    dtype: torch.dtype
    shape: torch.Size

    @property
    def size(self) -> int:
        return self.shape.numel() * self.dtype.itemsize

    def within(self, slot: Tensor) -> Tensor:
        return slot[self.begin : self.begin + self.size].view(self.dtype).view(self.shape)


def _arrive(key: int, number: int | None, sent: Mapping[str, Any]) -> dict[str, Any]:
    return _slots[key].arrive(number, sent)
