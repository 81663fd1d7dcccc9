"""Loaders that copy the images of the next batch to the GPU while the step before it runs.

Composer asks for a batch when a step is over, and would copy it then: for a ViT-B 2 to 4 % of a step, by arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import torch
from streaming import StreamingDataLoader
from torch.utils.data import DataLoader

from maws_composer.data.columns import IMAGE, IMAGE_EMBEDDING

_COPIED = (IMAGE, IMAGE_EMBEDDING)  # the rest is small, and read on the CPU, too


class _CopiesAhead:
    """A loader's `images_to` is the GPU for its images; None leaves them where they are."""

    images_to: torch.device | None = None

    def __iter__(self) -> Any:
        batches: Iterator[Any] = super().__iter__()  # type: ignore[misc]
        return batches if self.images_to is None else copied_ahead(batches, self.images_to)


class OwnLoader(_CopiesAhead, DataLoader[Any]):
    """PyTorch's."""


class ShardLoader(_CopiesAhead, StreamingDataLoader):
    """Streaming's."""


def copied_ahead(batches: Iterable[dict[str, Any]], device: torch.device) -> Iterator[dict[str, Any]]:
    """The batches with their images on the GPU. Each is asked for before its predecessor is handed over: one that comes
    late is waited for a step earlier."""
    copying = _copying_stream(device)
    before: tuple[dict[str, Any], torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(copying):
            copied = {name: batch[name].to(device, non_blocking=True) for name in _COPIED if name in batch}
            done = copying.record_event()
        if before is not None:
            yield _received(*before, device)
        before = {**batch, **copied}, done
    if before is not None:
        yield _received(*before, device)


@cache  # the allocator keeps memory for each stream that there was
def _copying_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def _received(batch: dict[str, Any], done: torch.cuda.Event, device: torch.device) -> dict[str, Any]:
    """For the stream that computes, which waits for the copy."""
    computing = torch.cuda.current_stream(device)
    computing.wait_event(done)
    for name in _COPIED:
        if name in batch:
            batch[name].record_stream(computing)  # or its memory would be written to while a step still reads it
    return batch
