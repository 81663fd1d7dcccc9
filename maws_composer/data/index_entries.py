"""Whether an entry of `index.json` is one that we read, and names a file that belongs to the dataset."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from streaming.base.compression import is_compression
from streaming.base.format.mds.encodings import get_mds_encodings

INDEX = "index.json"
VERSION = 2
_UNSAFE_ENCODINGS = {"pkl"}


def entry_problems(entry: Any) -> list[str]:
    """What is wrong with the entry of a shard, each as the end of a sentence that begins with its number."""
    try:
        return list(_shard_problems(entry))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return [f"is described in an unknown way ({error!r})"]


def _shard_problems(shard: dict[str, Any]) -> Iterator[str]:
    if shard["version"] != VERSION or shard["format"] != "mds":
        yield f"is {shard['format']!r} of version {shard['version']!r}; only MDS of version {VERSION} is read"
    if not _is_count(shard["samples"]) or shard["samples"] == 0:
        yield f"says that it has {shard['samples']!r} samples"
    columns = (tuple(shard[f"column_{part}"]) for part in ("names", "encodings", "sizes"))
    yield from _column_problems(*columns)
    yield from _file_problems(shard["raw_data"])
    if shard.get("zip_data"):
        yield from _file_problems(shard["zip_data"])
        if not is_compression(shard["compression"]):
            yield f"is compressed in an unknown way, {shard['compression']!r}"


@lru_cache(maxsize=64)  # most shards have the columns of the one before
def _column_problems(names: tuple[Any, ...], encodings: tuple[Any, ...], sizes: tuple[Any, ...]) -> tuple[str, ...]:
    problems = []
    if not len(names) == len(encodings) == len(sizes):
        problems.append("has columns without a name, encoding or size")
    for name, encoding in zip(names, encodings, strict=False):
        kind = encoding.split(":")[0]
        if kind in _UNSAFE_ENCODINGS:
            problems.append(f"has a pickled column, {name}; reading it could run any code")
        elif kind not in get_mds_encodings():
            problems.append(f"has a column, {name}, of unknown encoding {encoding}")
    if not all(size is None or _is_count(size) for size in sizes):
        problems.append("has a column of impossible size")
    return tuple(problems)


def _file_problems(file: dict[str, Any]) -> Iterator[str]:
    name = file["basename"]
    if not isinstance(name, str) or not _stays_inside(name):
        yield f"names a file outside of the dataset, {name!r}"
    if not _is_count(file["bytes"]):
        yield f"says that {name} has {file['bytes']!r} bytes"
    if not isinstance(file["hashes"], dict):
        yield f"has no hashes for {name}"


def _stays_inside(name: str) -> bool:
    parts = name.split("/")
    return (
        parts[-1] not in ("", ".", INDEX) and not name.startswith("/") and ".." not in parts
        and "\\" not in name and "\0" not in name and "://" not in name
    )  # fmt: skip


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53
