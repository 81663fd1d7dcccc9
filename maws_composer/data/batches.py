"""Batches: samples put together by a loader's process, and cut into microbatches on the rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from maws_composer.data.captions import Tokens
from maws_composer.data.columns import CAPTION
from maws_composer.data.crossing import CrossingBatch, Slot, Slots
from maws_composer.data.usable import Sample

Batch = dict[str, Any]

NO_LABEL = -1


class Tokenize(Protocol):
    """A tokenizer of captions."""

    context_length: int

    def __call__(self, captions: Sequence[str], /) -> Tokens: ...


def collate(images: Sequence[Sequence[Sample]], tokenizer: Tokenize | None = None, slots: Slots | None = None) -> Batch:
    """Samples to a batch: tensors and numbers to tensors, labels filled up with NO_LABEL; strings to a list.

    Of images with several crops first one crop of each, then the next, in the order of their positions. With a
    tokenizer, the tokens of the captions beside them.

    Args:
        images: each of them as its crops.
        tokenizer: of captions.
        slots: in which the batch crosses to the rank; None: it is there already.
    """
    slot = slots.take() if slots is not None else None
    batch = columns_of(images, tokenizer, slot)
    return batch if slot is None else CrossingBatch(batch, slot)


def columns_of(images: Sequence[Sequence[Sample]], tokenizer: Tokenize | None, slot: Slot | None) -> Batch:
    """What `collate` makes of samples, in a slot that is taken already."""
    samples = [sample for crops in zip(*images, strict=True) for sample in crops]
    batch: Batch = {name: _stack([sample[name] for sample in samples], slot) for name in samples[0]}
    return batch if tokenizer is None else {**batch, **tokenizer(batch[CAPTION])}


def split_batch(batch: Mapping[str, Any], size: int) -> list[Batch]:
    """Microbatches of `size` samples, the last perhaps smaller; lists are cut like tensors."""
    return [
        {name: values[begin : begin + size] for name, values in batch.items()}
        for begin in range(0, len(batch["valid"]), size)
    ]


def count_samples(batch: Mapping[str, Any]) -> int:
    """Samples of a batch, without the rows that only fill it."""
    return int(batch["valid"].sum())


def count_training_samples(batch: Mapping[str, Any]) -> int:
    """The same of a batch of training, where nothing fills it: Composer asks for each microbatch, on the device."""
    return len(batch["valid"])


def stacked(rows: list[Tensor], slot: Slot | None) -> Tensor:
    """A column of a batch, made in the slot if that has room."""
    shape = torch.Size([len(rows), *rows[0].shape])
    return torch.stack(rows, out=slot.room(shape, rows[0].dtype) if slot is not None else None)


def _stack(values: list[Any], slot: Slot | None) -> Tensor | list[Any]:
    first = values[0]
    if isinstance(first, Tensor):
        return stacked(values, slot)
    if isinstance(first, bool | int):
        return torch.tensor(values)
    if isinstance(first, np.ndarray) and np.issubdtype(first.dtype, np.integer):
        return pad_sequence([torch.from_numpy(value.astype(np.int64)) for value in values], True, NO_LABEL)
    return values
