"""Reading `index.json` of a set of shards, and not trusting it.

Streaming believes what it says: a name with `..` is read outside of the dataset and written outside of the cache, and
a column encoded as `pkl` runs code when it is read.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from streaming.base.compression import is_compression
from streaming.base.format.mds.encodings import get_mds_encodings
from streaming.base.storage import CloudDownloader

from maws_composer.config.problems import ConfigError, Problem, not_there
from maws_composer.data import columns
from maws_composer.data.sources import Shards
from maws_composer.outages import refused

INDEX = "index.json"
NO_FILE = "there is no such file"
_VERSION = 2
_UNSAFE_ENCODINGS = {"pkl"}
_READABLE = {columns.IMAGE: ("bytes", "jpeg", "png"), columns.ID: ("str", "int", "uint64", "int64", "uint32", "int32")}
_NUMBERS = {columns.LABELS: re.compile(r"u?int\d+\b"), columns.IMAGE_EMBEDDING: re.compile(r"float\d+\b")}
_TOLD = 5
_MAKER = "python -m streaming_conversion makes shards of images"


@dataclass(frozen=True)
class Index:
    """What the shards of one set are, checked.

    Args:
        source: where they are.
        shards: their entries in `index.json`.
        digest: changes whenever a shard does, if they are hashed.
        groups: of shards, for resampling; () if that is not wanted.
    """

    source: Shards
    shards: list[dict[str, Any]]
    digest: str
    groups: tuple[columns.Group, ...] = ()

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Samples of each shard."""
        return np.array([shard["samples"] for shard in self.shards], np.int64)

    @property
    def is_hashed(self) -> bool:
        """Whether `digest` changes with every byte of the shards, and not just with their sizes."""
        return all(shard["raw_data"]["hashes"] for shard in self.shards)

    @property
    def bytes(self) -> int:
        """What all shards take in a cache."""
        return sum(map(shard_bytes, self.shards))

    @property
    def largest_shard(self) -> int:
        """What the largest shard takes in a cache, in bytes."""
        return max(map(shard_bytes, self.shards))


def shard_bytes(shard: Mapping[str, Any]) -> int:
    """What one shard takes in a cache while it is unpacked."""
    return sum(shard[part]["bytes"] for part in ("raw_data", "zip_data") if shard.get(part))


def parse_index(text: bytes, source: Shards) -> Index:
    """Check `index.json`.

    Raises:
        ConfigError: it is damaged, of another format, or names files outside of its folder.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise _refused(source, [f"is not JSON: {error}"]) from error
    problems = [problem for problem, _ in zip(_index_problems(content), range(_TOLD), strict=False)]
    if problems:
        raise _refused(source, problems)
    return Index(source, content["shards"], _digest(content["shards"]))


def read_index(source: Shards, timeout: float) -> Index:
    """Read and check `index.json` where the shards come from, without touching a cache.

    Raises:
        ConfigError: it cannot be read, see `read_file`, or see `parse_index`.
    """
    return parse_index(read_file(source, INDEX, timeout), source)


def with_groups(index: Index, text: bytes) -> Index:
    """The index with the groups of shards that `dataset.json` names.

    Raises:
        ConfigError: it is damaged, names no groups, or those of other shards.
    """
    path = index.source.path(columns.DATASET_FILE)
    try:
        dataset = columns.DatasetFile.from_json(text)
    except columns.DatasetFileError as error:
        raise ConfigError([Problem(index.source.where, f"{path}: {error}")]) from error
    groups = dataset.groups
    if not groups:
        cure = "without --groups, as with --classes it is by default" if dataset.classes else "without labels"
        message = f"{path} names no groups of shards, which resampling needs: it was made {cure}; null switches it off"
        raise ConfigError([Problem("data.train.resampling", message)])
    ends = np.cumsum([group.shards for group in groups])
    starts = np.concatenate([[0], np.cumsum(index.sizes)])
    if ends[-1] != len(index.shards):
        message = f"{path} has groups of {ends[-1]} shards, {INDEX} has {len(index.shards)}: they are of two datasets"
        raise ConfigError([Problem(index.source.where, message)])
    if np.diff(starts[ends], prepend=0).tolist() != [group.images for group in groups]:
        message = f"{path} has groups of other numbers of images than {INDEX}: they are of two datasets"
        raise ConfigError([Problem(index.source.where, message)])
    return replace(index, groups=tuple(groups))


def read_file(source: Shards, basename: str, timeout: float) -> bytes:
    """A file that the set of shards must have.

    Raises:
        ConfigError: it cannot be read; OutageError, if it may be soon.
    """
    try:
        return read_bytes(source, basename, timeout)
    except Exception as error:  # every kind of object storage has its own
        if not source.is_there:
            raise ConfigError([missing_folder(source)]) from error
        why = f"it has no {basename}" if reason(error) == NO_FILE else reason(error)
        why += f"; {_MAKER}" if why.endswith(f"no {INDEX}") else ""
        raise refused(error, Problem(source.where, f"{source.address} is not readable: {why}")) from error


def missing_folder(source: Shards) -> Problem:
    """That the folder is not there, of a set of shards on a disk."""
    return Problem(source.where, f"{source.address} {not_there(source.address, _MAKER)}")


def read_dataset_file(source: Shards, timeout: float) -> columns.DatasetFile | None:
    """`dataset.json`; None for shards that others wrote, which have none.

    Raises:
        ConfigError: it cannot be read; OutageError, if it may be soon.
        DatasetFileError: it is damaged, or of a later format.
    """
    try:
        text = read_bytes(source, columns.DATASET_FILE, timeout)
    except Exception as error:  # every kind of object storage has its own
        if reason(error) == NO_FILE:
            return None
        message = f"{source.path(columns.DATASET_FILE)} is not readable: {reason(error)}"
        raise refused(error, Problem(source.where, message)) from error
    return columns.DatasetFile.from_json(text)


def read_bytes(source: Shards, basename: str, timeout: float) -> bytes:
    """A file of the set of shards."""
    if source.remote is None:
        return Path(source.path(basename)).read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        CloudDownloader.direct_download(source.path(basename), str(copy), timeout)
        return copy.read_bytes()


def column_problems(index: Index, wanted: Mapping[str, str]) -> list[Problem]:
    """Wanted columns that a shard lacks, or that are encoded as we do not read them.

    Args:
        index: of the shards.
        wanted: our name -> name in the shards.
    """
    problems = []
    layouts = {tuple(zip(shard["column_names"], shard["column_encodings"], strict=True)) for shard in index.shards}
    for ours, theirs in wanted.items():
        for layout in sorted(layouts):
            found = dict(layout)
            key = f"{index.source.section}.columns.{ours}"
            if theirs not in found:
                names = ", ".join(sorted(found))
                problems.append(Problem(key, f"{index.source.address} has no column {theirs}; it has {names}"))
                break
            if not _is_readable(ours, found[theirs]):
                message = f"{theirs} of {index.source.address} is {found[theirs]}, which is not read as {ours}"
                problems.append(Problem(key, message))
                break
    return problems


def hash_problems(index: Index, validate_hash: str | None) -> list[Problem]:
    """Whether the shards carry the hash that they shall be checked with."""
    if validate_hash is None or not index.source.is_cached:
        return []
    for shard in index.shards:
        file = shard.get("zip_data") or shard["raw_data"]
        if validate_hash not in file["hashes"]:
            known = ", ".join(sorted(file["hashes"])) or "no hashes"
            message = f"{index.source.address} was written with {known}, not {validate_hash}; null reads it unchecked"
            return [Problem(f"{index.source.section}.validate_hash", message)]
    return []


def reason(error: BaseException) -> str:
    """Why object storage did not give a file, in a few words."""
    code = str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))
    known = {"403": "access denied", "AccessDenied": "access denied", "404": NO_FILE}
    known |= {"NoSuchKey": NO_FILE, "NoSuchBucket": "there is no such bucket"}
    if code in known:
        return known[code]
    names = {kind.__name__ for kind in type(error).__mro__}
    if "NoCredentialsError" in names:
        return "no credentials for it are set"
    if isinstance(error, FileNotFoundError):
        return NO_FILE
    return str(error) or type(error).__name__


def _refused(source: Shards, problems: list[str]) -> ConfigError:
    path = source.path(INDEX)
    return ConfigError([Problem(source.where, f"{path}: {problem}") for problem in problems])


def _digest(shards: list[dict[str, Any]]) -> str:
    """Of names, sizes and hashes, whatever else the index says."""
    seen = hashlib.blake2b(digest_size=8)
    for shard in shards:
        raw = shard["raw_data"]
        seen.update(repr((raw["basename"], raw["bytes"], shard["samples"], sorted(raw["hashes"].items()))).encode())
    return seen.hexdigest()


def _index_problems(content: Any) -> Iterator[str]:
    if not isinstance(content, dict) or content.get("version") != _VERSION:
        yield f"is not an index of version {_VERSION}"
        return
    shards = content.get("shards")
    if not isinstance(shards, list) or not shards:
        yield "names no shards"
        return
    for number, shard in enumerate(shards):
        try:
            yield from (f"shard {number} {problem}" for problem in _shard_problems(shard))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            yield f"shard {number} is described in an unknown way ({error!r})"


def _shard_problems(shard: dict[str, Any]) -> Iterator[str]:
    if shard["version"] != _VERSION or shard["format"] != "mds":
        yield f"is {shard['format']!r} of version {shard['version']!r}; only MDS of version {_VERSION} is read"
    if not _is_count(shard["samples"]) or shard["samples"] == 0:
        yield f"says that it has {shard['samples']!r} samples"
    if not len(shard["column_names"]) == len(shard["column_encodings"]) == len(shard["column_sizes"]):
        yield "has columns without a name, encoding or size"
    for name, encoding in zip(shard["column_names"], shard["column_encodings"], strict=False):
        kind = encoding.split(":")[0]
        if kind in _UNSAFE_ENCODINGS:
            yield f"has a pickled column, {name}; reading it could run any code"
        elif kind not in get_mds_encodings():
            yield f"has a column, {name}, of unknown encoding {encoding}"
    if not all(size is None or _is_count(size) for size in shard["column_sizes"]):
        yield "has a column of impossible size"
    yield from _file_problems(shard["raw_data"])
    if shard.get("zip_data"):
        yield from _file_problems(shard["zip_data"])
        if not is_compression(shard["compression"]):
            yield f"is compressed in an unknown way, {shard['compression']!r}"


def _file_problems(file: dict[str, Any]) -> Iterator[str]:
    name = file["basename"]
    if not isinstance(name, str) or not _stays_inside(name):
        yield f"names a file outside of the dataset, {name!r}"
    if not _is_count(file["bytes"]):
        yield f"says that {name} has {file['bytes']!r} bytes"
    if not isinstance(file["hashes"], dict):
        yield f"has no hashes for {name}"


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return (
        bool(path.name) and path.name != INDEX and not path.is_absolute() and ".." not in path.parts
        and "\\" not in name and "\0" not in name and "://" not in name
    )  # fmt: skip


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_readable(ours: str, encoding: str) -> bool:
    kind, _, form = encoding.partition(":")
    if ours in _NUMBERS and kind == "ndarray" and form and not _NUMBERS[ours].match(form):
        return False
    return encoding in _READABLE.get(ours, ()) or columns.allows(ours, encoding)
