"""The entries of `index.json`, as the text that they are, and of each what is asked for often.

Five billion samples are half a million shards. Their entries as dictionaries and a reader of each take 1.3 GB in every
process of a node. As text in a file that all processes map, they take 0.2 GB of the node, most of it never looked at.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LIST = re.compile(r'"shards"\s*:\s*\[\s*')
_COMMA = re.compile(r"\s*(?:,\s*|(?=\]))")
_TEXT, _ROWS = "entries.json", "rows.npy"


def read_entries(text: str, take: Callable[[int, int, Any], None]) -> Any:
    """Hand each entry of the list `shards` to `take`, with where in the text it begins and ends, and keep none.

    Returns:
        What stands around the entries, the list itself empty.

    Raises:
        ValueError: it is not JSON.
    """
    opening = _LIST.search(text)
    if opening is None:
        return json.loads(text)
    decoder, begin = json.JSONDecoder(), opening.end()
    while not text.startswith("]", begin):
        entry, end = decoder.raw_decode(text, begin)
        take(begin, end, entry)
        comma = _COMMA.match(text, end)
        if comma is None:
            raise json.JSONDecodeError("Expecting ',' delimiter", text, end)
        begin = comma.end()
    return json.loads(text[: opening.end()] + text[begin:])


class ShardTable(Sequence[dict[str, Any]]):
    """Entries of shards, read from their text when one is asked for.

    Args:
        text: that they stand in, ASCII as uint8 (bytes,).
        rows: of each shard, `begin` and `end` in the text, its `samples`, the `bytes` that it takes in a cache while it
            is unpacked, and its files, `raw` and `zip` (empty: none).
    """

    def __init__(self, text: NDArray[np.uint8], rows: NDArray[np.void]) -> None:
        self._text = text
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, shard: Any) -> Any:
        if isinstance(shard, slice):
            return ShardTable(self._text, self._rows[shard])
        row = self._rows[shard]
        return json.loads(self._text[row["begin"] : row["end"]].tobytes())

    @property
    def samples(self) -> NDArray[np.int64]:
        """Of each shard."""
        return self._rows["samples"]

    @property
    def bytes(self) -> NDArray[np.int64]:
        """What each shard takes in a cache while it is unpacked."""
        return self._rows["bytes"]

    def with_files(self, files: set[bytes]) -> NDArray[np.int64]:
        """Numbers of the shards of which at least one of their files is among these."""
        pairs = zip(self._rows["raw"].tolist(), self._rows["zip"].tolist(), strict=True)
        return np.array([number for number, pair in enumerate(pairs) if not files.isdisjoint(pair)], np.int64)

    def save(self, folder: Path) -> None:
        """Write it to files, in the place of those that an earlier run left, which may still have them mapped."""
        for name, values in ((_TEXT, self._text), (_ROWS, self._rows)):
            new = folder / f"{name}.new"
            with new.open("wb") as file:
                values.tofile(file) if name == _TEXT else np.save(file, values)
            new.rename(folder / name)

    @classmethod
    def load(cls, folder: Path) -> ShardTable:
        """What `save` wrote, mapped: processes of one machine share it."""
        return cls(np.memmap(folder / _TEXT, np.uint8, "r"), np.load(folder / _ROWS, mmap_mode="r"))


class ShardTableBuilder:
    """Collects shards one by one."""

    def __init__(self) -> None:
        self._numbers = array("q")
        self._raw: list[bytes] = []
        self._zip: list[bytes] = []

    def add(self, begin: int, end: int, entry: Mapping[str, Any]) -> None:
        """Add the shard of an entry that stands from `begin` to `end` in the text."""
        packed = entry.get("zip_data")
        self._numbers.extend((begin, end, entry["samples"], shard_bytes(entry)))
        self._raw.append(entry["raw_data"]["basename"].encode())
        self._zip.append(packed["basename"].encode() if packed else b"")

    def build(self, text: bytes) -> ShardTable:
        numbers = np.frombuffer(self._numbers, np.int64).reshape(-1, 4)
        raw, packed = np.array(self._raw), np.array(self._zip)
        kinds = [(name, np.int64) for name in ("begin", "end", "samples", "bytes")]
        rows = np.empty(len(numbers), [*kinds, ("raw", raw.dtype), ("zip", packed.dtype)])
        for column, (name, _) in enumerate(kinds):
            rows[name] = numbers[:, column]
        rows["raw"], rows["zip"] = raw, packed
        return ShardTable(np.frombuffer(text, np.uint8), rows)


def shard_bytes(entry: Mapping[str, Any]) -> int:
    """What one shard takes in a cache while it is unpacked."""
    return sum(entry[part]["bytes"] for part in ("raw_data", "zip_data") if entry.get(part))
