"""MDS shards as a source: their hashtags and captions without their pictures, and single pictures.

A dataset may have more samples than fit in memory, so an entry is read from its shard when it is asked for. Shards that
are compressed or in object storage are held in memory while they are read, two at a time in each process, and are
not kept: whoever goes through the samples in order fetches each shard once.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from streaming.base.compression import decompress, is_compression
from streaming.base.format.mds.encodings import mds_decode

from maws_composer.data.columns import CAPTION, HASHTAGS, ID, IMAGE, allows, read_hashtags
from streaming_conversion.places import Place, read_file
from streaming_conversion.problems import ConversionError
from streaming_conversion.source import Entry

INDEX = "index.json"
_IMAGES = ("bytes", "jpeg", "png")  # in all of them the bytes are the encoded picture
_IDS = ("str", "int", "uint64", "int64", "uint32", "int32")


@dataclass(frozen=True)
class Samples(Sequence[Entry]):
    """Some samples of a dataset, in a given order.

    Args:
        place: of the dataset.
        numbers: of the samples, counted over all shards. int64
    """

    place: Place
    numbers: range | NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Samples: ...
    def __getitem__(self, index: int | slice) -> Entry | Samples:
        if isinstance(index, slice):
            return Samples(self.place, self.numbers[index])
        return _entry(self.place, int(self.numbers[index]))

    def take(self, places: NDArray[np.int64]) -> Samples:
        """The samples at these places, in this order."""
        return Samples(self.place, np.asarray(self.numbers, np.int64)[places])


@dataclass(frozen=True)
class FromShards:
    """Reads a sample's encoded picture; its key is its number in the dataset."""

    place: Place

    def __call__(self, key: str) -> bytes:
        shard, row = _index(self.place).find(int(key))
        return bytes(_shard(self.place, shard).columns(row)[IMAGE])


def read_samples(place: Place) -> tuple[Samples, str]:
    """All samples of the dataset in `place`, and a digest that changes when a shard does.

    Raises:
        ConversionError: its index cannot be read, or a shard lacks a column or has one that is not read.
    """
    index = _index(place)
    return Samples(place, range(index.ends[-1])), index.digest


class _Index:
    def __init__(self, place: Place) -> None:
        path = f"{place}/{INDEX}"
        text = read_file(place, INDEX)
        try:
            self.shards: list[dict[str, Any]] = json.loads(text)["shards"]
            self.ends = list(itertools.accumulate(int(shard["samples"]) for shard in self.shards))
            for shard in self.shards:
                _require_readable(place, shard)
        except (ValueError, KeyError, TypeError) as error:
            raise ConversionError(f"{path} is damaged: {error!r}") from error
        if not self.ends or not self.ends[-1]:
            raise ConversionError(f"{path} names no samples")
        self.digest = hashlib.sha256(text).hexdigest()

    def find(self, number: int) -> tuple[int, int]:
        """Shard and row of a sample."""
        shard = bisect.bisect_right(self.ends, number)
        return shard, number - (self.ends[shard - 1] if shard else 0)


def _require_readable(place: Place, shard: dict[str, Any]) -> None:
    name = shard["raw_data"]["basename"]
    found = dict(zip(shard["column_names"], shard["column_encodings"], strict=True))
    compression = shard.get("compression")
    if compression and not is_compression(compression):
        raise ConversionError(f"{place}/{name} is compressed in an unknown way, {compression}")
    absent = [column for column in (IMAGE, ID, HASHTAGS) if column not in found]
    if absent:
        raise ConversionError(f"{place}/{name} has no column {absent[0]}; it has {', '.join(sorted(found))}")
    for column, readable in ((IMAGE, found[IMAGE] in _IMAGES), (ID, found[ID] in _IDS)):
        if not readable:
            raise ConversionError(f"{place}/{name}: {found[column]} is not read as {column}")
    for column in (HASHTAGS, CAPTION):
        if column in found and not allows(column, found[column]):
            raise ConversionError(f"{place}/{name}: {found[column]} is not read as {column}")


@lru_cache(maxsize=1)
def _index(place: Place) -> _Index:
    return _Index(place)


class _Shard:
    """A shard: number of samples, where each begins, and a sample's columns behind one another."""

    def __init__(self, place: Place, about: dict[str, Any]) -> None:
        self.encodings = dict(zip(about["column_names"], about["column_encodings"], strict=True))
        self._sizes: list[int | None] = about["column_sizes"]
        self._bytes = _content(place, about)
        raw = about["raw_data"]
        if len(self._bytes) != raw["bytes"]:
            raise ConversionError(
                f"{place}/{raw['basename']} is cut off: {len(self._bytes):,} bytes of {raw['bytes']:,}"
            )
        self._begins = np.frombuffer(self._bytes, np.uint32, int(about["samples"]) + 1, offset=4)

    def columns(self, row: int) -> dict[str, memoryview]:
        """Column -> its encoded value; pages of the file that nobody looks at are not read."""
        at = int(self._begins[row])
        variable = sum(size is None for size in self._sizes)
        given = iter(np.frombuffer(self._bytes, np.uint32, variable, offset=at).tolist())
        at += 4 * variable
        found = {}
        view = memoryview(self._bytes)
        for name, fixed in zip(self.encodings, self._sizes, strict=True):
            size = next(given) if fixed is None else fixed
            found[name] = view[at : at + size]
            at += size
        return found

    def text(self, columns: dict[str, memoryview], name: str) -> Any:
        return mds_decode(self.encodings[name], bytes(columns[name]))


def _content(place: Place, about: dict[str, Any]) -> mmap.mmap | bytes:
    """A shard without its compression; of a plain file on this machine only the pages that are looked at are read."""
    name, zipped = about["raw_data"]["basename"], about.get("zip_data")
    if isinstance(place, Path) and (not zipped or (place / name).exists()):
        try:
            with (place / name).open("rb") as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ConversionError(f"{place / name} cannot be read: {error}") from error
    if not zipped:
        return read_file(place, name)
    packed = read_file(place, zipped["basename"])
    try:
        return decompress(about["compression"], packed)
    except Exception as error:  # each compression has exceptions of its own
        raise ConversionError(f"{place}/{zipped['basename']} cannot be unpacked: {error}") from error


@lru_cache(maxsize=2)
def _shard(place: Place, number: int) -> _Shard:
    return _Shard(place, _index(place).shards[number])


def _entry(place: Place, number: int) -> Entry:
    index = _index(place)
    number_of_shard, row = index.find(number)
    shard = _shard(place, number_of_shard)
    columns = shard.columns(row)
    try:
        hashtags = tuple(read_hashtags(shard.text(columns, HASHTAGS)))
    except ValueError as error:
        raise ConversionError(f"{place}, sample {number}: {error}") from error
    caption = shard.text(columns, CAPTION) if CAPTION in columns else None
    return Entry(str(number), str(shard.text(columns, ID)), hashtags, caption)
