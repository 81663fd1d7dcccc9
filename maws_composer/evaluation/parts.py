"""Every image of a set of shards once, in parts that one process works off by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from maws_composer.data.column_reader import ColumnReader
from maws_composer.data.columns import ID, IMAGE
from maws_composer.data.guards import DataStream, ShardError
from maws_composer.data.index import Index
from maws_composer.data.transforms import Transform
from maws_composer.data.usable import UnusableSampleError, usable

Place = tuple[int, int]  # shard, and row in it


@dataclass(frozen=True)
class Part:
    """A run of whole shards.

    Args:
        number: of the part.
        shards: their numbers.
        samples: of all of them.
    """

    number: int
    shards: range
    samples: int

    @property
    def name(self) -> str:
        return f"part-{self.number:06}"


class Images(NamedTuple):
    """Some images of a shard, in its order.

    Attributes:
        shard: its number.
        pixels: of those that can be used; None if there are none.
        samples: their other columns.
        unusable: {"id", "source", "reason"} of the others.
    """

    shard: int
    pixels: UInt8[Tensor, "images 3 height width"] | None
    samples: list[dict[str, Any]]
    unusable: list[dict[str, str]]


def parts_of(index: Index, size: int) -> list[Part]:
    """Parts of at least `size` samples, save the last: the same for any number of processes."""
    parts: list[Part] = []
    begin = samples = 0
    for shard, count in enumerate(index.sizes.tolist()):
        samples += count
        if samples >= size or shard == len(index.shards) - 1:
            parts.append(Part(len(parts), range(begin, shard + 1), samples))
            begin, samples = shard + 1, 0
    return parts


class PartReader:
    """Reads parts, and fetches and decodes ahead across their borders.

    Args:
        stream: of the shards; a cached one keeps only those of parts that are being read, and the next.
        index: of the shards.
        transform: from decoded images to pixels.
        max_pixels: see `decode`.
        keep_images: hand on the encoded images too.
        batch_size: images at once; never of two shards.
        workers: processes that decode.
    """

    def __init__(
        self,
        stream: DataStream,
        index: Index,
        transform: Transform,
        max_pixels: int,
        *,
        keep_images: bool,
        batch_size: int,
        workers: int,
    ) -> None:
        self._stream = stream
        self._sizes = index.sizes.tolist()
        self._readers = [stream.reader(shard) for shard in index.shards]
        self._samples = _Samples(stream, self._readers, transform, max_pixels, keep_images)
        self._batch_size = batch_size
        self._workers = workers

    def read(self, parts: Sequence[Part]) -> Iterator[tuple[Part, Iterator[Images]]]:
        """Each part with its batches, all of which have to be taken before the next part.

        Raises:
            ShardError: while iterating; a shard cannot be had, or is damaged.
        """
        # DataLoader asks for the next places in this process, ahead of its workers: where shards can be waited for.
        places: Any = self._places(parts)
        options: dict[str, Any] = {"prefetch_factor": 4} if self._workers else {}
        loader: Any = DataLoader(
            self._samples,
            batch_sampler=places,
            num_workers=self._workers,
            collate_fn=_collate,
            pin_memory=torch.cuda.is_available(),
            **options,
        )
        batches = iter(loader)
        for part in parts:
            yield part, islice(batches, sum(-(-self._sizes[shard] // self._batch_size) for shard in part.shards))
            if self._stream.source.is_cached:
                for shard in part.shards:
                    self._readers[shard].evict()

    def _places(self, parts: Sequence[Part]) -> Iterator[list[Place]]:
        with ThreadPoolExecutor(1) as thread:
            coming: list[Future[None]] = [thread.submit(self._fetch, part) for part in parts[:1]]
            for part, following in zip(parts, [*parts[1:], None], strict=True):
                coming.pop().result()
                if following is not None:
                    coming.append(thread.submit(self._fetch, following))
                for shard in part.shards:
                    places = ((shard, row) for row in range(self._sizes[shard]))
                    while batch := list(islice(places, self._batch_size)):
                        yield batch

    def _fetch(self, part: Part) -> None:
        for shard in part.shards:
            self._stream.prepare_shard(self._readers[shard])


class _Read(NamedTuple):
    """A sample that was read; without pixels if it cannot be used, and why is among its columns then."""

    shard: int
    pixels: UInt8[Tensor, "3 height width"] | None
    columns: dict[str, Any]


class _Samples(Dataset[_Read]):
    def __init__(
        self,
        stream: DataStream,
        readers: Sequence[ColumnReader],
        transform: Transform,
        max_pixels: int,
        keep_images: bool,
    ) -> None:
        self._stream = stream
        self._readers = readers
        self._transform = transform
        self._max_pixels = max_pixels
        self._keep_images = keep_images

    def __getitem__(self, place: Place) -> _Read:
        shard, row = place
        reader = self._readers[shard]
        where = f"sample {row} of {self._stream.source.path(reader.raw_data.basename)}"
        try:
            raw = reader.get_item(row)
        except (IndexError, ValueError, KeyError, OSError) as error:
            raise ShardError(f"{where} is damaged: {error}") from error
        name = str(raw[ID])
        try:
            sample = usable(raw, self._max_pixels)
        except UnusableSampleError as error:
            return _Read(shard, None, {ID: name, "source": where, "reason": str(error)})
        pixels = self._transform(sample.pop(IMAGE), epoch=0, position=0)
        images = {IMAGE: raw[IMAGE]} if self._keep_images else {}
        return _Read(shard, pixels, {**sample, **images, ID: name})


def _collate(samples: Sequence[_Read]) -> Images:
    pixels = [sample.pixels for sample in samples if sample.pixels is not None]
    return Images(
        samples[0].shard,
        torch.stack(pixels) if pixels else None,
        [sample.columns for sample in samples if sample.pixels is not None],
        [sample.columns for sample in samples if sample.pixels is None],
    )
