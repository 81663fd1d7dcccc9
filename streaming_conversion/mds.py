"""MDS shards as a source: their hashtags and captions without their pictures, and single pictures.

A dataset may have more samples than fit in memory, so an entry is read from its shard when it is asked for.
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
from streaming.base.format.mds.encodings import mds_decode

from maws_composer.data.columns import CAPTION, HASHTAGS, ID, IMAGE, allows, read_hashtags
from streaming_conversion.problems import ConversionError
from streaming_conversion.source import Entry

INDEX = "index.json"
_IMAGES = ("bytes", "jpeg", "png")  # in all of them the bytes are the encoded picture
_IDS = ("str", "int", "uint64", "int64", "uint32", "int32")


@dataclass(frozen=True)
class Samples(Sequence[Entry]):
    """Some samples of a dataset on this machine, in a given order.

    Args:
        folder: of the dataset.
        numbers: of the samples, counted over all shards. int64
    """

    folder: Path
    numbers: range | NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Samples: ...
    def __getitem__(self, index: int | slice) -> Entry | Samples:
        if isinstance(index, slice):
            return Samples(self.folder, self.numbers[index])
        return _entry(self.folder, int(self.numbers[index]))

    def take(self, places: NDArray[np.int64]) -> Samples:
        """The samples at these places, in this order."""
        return Samples(self.folder, np.asarray(self.numbers, np.int64)[places])


@dataclass(frozen=True)
class FromShards:
    """Reads a sample's encoded picture; its key is its number in the dataset."""

    folder: Path

    def __call__(self, key: str) -> bytes:
        shard, row = _index(self.folder).find(int(key))
        return bytes(_shard(self.folder, shard).columns(row)[IMAGE])


def read_samples(folder: Path) -> tuple[Samples, str]:
    """All samples of the dataset in `folder`, and a digest that changes when a shard does.

    Raises:
        ConversionError: its index cannot be read, or a shard lacks a column or has one that is not read.
    """
    index = _index(folder)
    return Samples(folder, range(index.ends[-1])), index.digest


class _Index:
    def __init__(self, folder: Path) -> None:
        path = folder / INDEX
        try:
            text = path.read_bytes()
            self.shards: list[dict[str, Any]] = json.loads(text)["shards"]
            self.ends = list(itertools.accumulate(int(shard["samples"]) for shard in self.shards))
            for shard in self.shards:
                _require_readable(folder, shard)
        except OSError as error:
            raise ConversionError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ConversionError(f"{path} is damaged: {error!r}") from error
        if not self.ends or not self.ends[-1]:
            raise ConversionError(f"{path} names no samples")
        self.digest = hashlib.sha256(text).hexdigest()

    def find(self, number: int) -> tuple[int, int]:
        """Shard and row of a sample."""
        shard = bisect.bisect_right(self.ends, number)
        return shard, number - (self.ends[shard - 1] if shard else 0)


def _require_readable(folder: Path, shard: dict[str, Any]) -> None:
    name = shard["raw_data"]["basename"]
    found = dict(zip(shard["column_names"], shard["column_encodings"], strict=True))
    if shard.get("compression"):
        raise ConversionError(f"{folder}/{name} is compressed; only shards without compression are read")
    absent = [column for column in (IMAGE, ID, HASHTAGS) if column not in found]
    if absent:
        raise ConversionError(f"{folder}/{name} has no column {absent[0]}; it has {', '.join(sorted(found))}")
    for column, readable in ((IMAGE, found[IMAGE] in _IMAGES), (ID, found[ID] in _IDS)):
        if not readable:
            raise ConversionError(f"{folder}/{name}: {found[column]} is not read as {column}")
    for column in (HASHTAGS, CAPTION):
        if column in found and not allows(column, found[column]):
            raise ConversionError(f"{folder}/{name}: {found[column]} is not read as {column}")


@lru_cache(maxsize=1)
def _index(folder: Path) -> _Index:
    return _Index(folder)


class _Shard:
    """A shard's file: number of samples, where each begins, and a sample's columns behind one another."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.encodings = dict(zip(about["column_names"], about["column_encodings"], strict=True))
        self._sizes: list[int | None] = about["column_sizes"]
        try:
            with path.open("rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ConversionError(f"{path} cannot be read: {error}") from error
        if len(self._bytes) != about["raw_data"]["bytes"]:
            raise ConversionError(f"{path} is cut off: {len(self._bytes):,} bytes of {about['raw_data']['bytes']:,}")
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


@lru_cache(maxsize=4)
def _shard(folder: Path, number: int) -> _Shard:
    about = _index(folder).shards[number]
    return _Shard(folder / about["raw_data"]["basename"], about)


def _entry(folder: Path, number: int) -> Entry:
    index = _index(folder)
    number_of_shard, row = index.find(number)
    shard = _shard(folder, number_of_shard)
    columns = shard.columns(row)
    try:
        hashtags = tuple(read_hashtags(shard.text(columns, HASHTAGS)))
    except ValueError as error:
        raise ConversionError(f"{folder}, sample {number}: {error}") from error
    caption = shard.text(columns, CAPTION) if CAPTION in columns else None
    return Entry(str(number), str(shard.text(columns, ID)), hashtags, caption)
