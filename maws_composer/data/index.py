"""Reading `index.json` of a set of shards, and not trusting it.

Streaming believes what it says: a name with `..` is read outside of the dataset and written outside of the cache, and
a column encoded as `pkl` runs code when it is read.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from streaming.base.storage import CloudDownloader

from maws_composer.config.problems import ConfigError, Problem, not_there
from maws_composer.data import columns
from maws_composer.data.index_entries import INDEX, VERSION, entry_problems
from maws_composer.data.shard_table import ShardTable, ShardTableBuilder, read_entries
from maws_composer.data.sources import Shards
from maws_composer.outages import refused

NO_FILE = "there is no such file"
_READABLE = {columns.IMAGE: ("bytes", "jpeg", "png"), columns.ID: ("str", "int", "uint64", "int64", "uint32", "int32")}
_NUMBERS = {columns.LABELS: re.compile(r"u?int\d+\b"), columns.IMAGE_EMBEDDING: re.compile(r"float\d+\b")}
_TOLD = 5
_MAKER = "python -m streaming_conversion makes shards of images"
_ABOUT = "about.json"

Layout = tuple[tuple[str, str], ...]  # name and encoding of each column

_parsed: dict[Shards, tuple[bytes, Index]] = {}


@dataclass(frozen=True)
class Index:
    """What the shards of one set are, checked.

    Args:
        source: where they are.
        shards: their entries in `index.json`.
        digest: changes whenever a shard does, if they are hashed.
        is_hashed: whether `digest` changes with every byte of the shards, and not just with their sizes.
        layouts: names and encodings of columns that shards have.
        hashes: kinds of hashes that files which are downloaded have.
        groups: of shards, for resampling; () if that is not wanted.
    """

    source: Shards
    shards: ShardTable
    digest: str
    is_hashed: bool
    layouts: frozenset[Layout]
    hashes: frozenset[tuple[str, ...]]
    groups: tuple[columns.Group, ...] = ()

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Samples of each shard."""
        return self.shards.samples

    @property
    def bytes(self) -> int:
        """What all shards take in a cache."""
        return int(self.shards.bytes.sum())

    @property
    def largest_shard(self) -> int:
        """What the largest shard takes in a cache, in bytes."""
        return int(self.shards.bytes.max())

    @property
    def smallest(self) -> int:
        """Number of the smallest shard."""
        return int(self.shards.bytes.argmin())

    def save(self, folder: Path) -> None:
        """Write it for the other processes of this node; groups are left out."""
        folder.mkdir(parents=True, exist_ok=True)
        self.shards.save(folder)
        about = (self.digest, self.is_hashed, sorted(self.layouts), sorted(self.hashes))
        new = folder / f"{_ABOUT}.new"
        new.write_text(json.dumps(about))
        new.rename(folder / _ABOUT)

    @classmethod
    def load(cls, folder: Path, source: Shards) -> Index:
        """What `save` wrote, in memory that all processes of the node share."""
        digest, is_hashed, layouts, hashes = json.loads((folder / _ABOUT).read_text())
        return cls(
            source,
            ShardTable.load(folder),
            digest,
            is_hashed,
            frozenset(tuple((name, encoding) for name, encoding in layout) for layout in layouts),
            frozenset(map(tuple, hashes)),
        )


def parse_index(text: bytes, source: Shards) -> Index:
    """Check `index.json`. A process that has checked the same text before takes what it found then.

    The preflight reads the same index as the loader after it, and again for labels: 10 s for half a million shards.

    Raises:
        ConfigError: it is damaged, of another format, or names files outside of its folder.
    """
    if source not in _parsed or _parsed[source][0] != text:
        _parsed[source] = text, _parse(text, source)
    return _parsed[source][1]


def forget_parsed(source: Shards) -> None:
    """Give back the memory of what `parse_index` found, once it is saved."""
    _parsed.pop(source, None)


def _parse(text: bytes, source: Shards) -> Index:
    entries = _Entries()
    try:
        if not text.isascii():
            text = json.dumps(json.loads(text)).encode()
        around = read_entries(text.decode("ascii"), entries.take)
    except ValueError as error:
        raise _refused(source, [f"is not JSON: {error}"]) from error
    problems = entries.problems
    if not isinstance(around, dict) or around.get("version") != VERSION:
        problems = [f"is not an index of version {VERSION}"]
    elif not entries.count or around.get("shards") != []:
        problems = ["names no shards"]
    if problems:
        raise _refused(source, problems)
    return entries.index(text, source)


class _Entries:
    """Entries of `index.json` that are looked at one after the other: what is wrong with them, else their index."""

    def __init__(self) -> None:
        self.count = 0
        self.problems: list[str] = []
        self._table = ShardTableBuilder()
        self._digest = hashlib.blake2b(digest_size=8)  # of names, sizes and hashes, whatever else the index says
        self._is_hashed = True
        self._layouts: set[Layout] = set()
        self._hashes: set[tuple[str, ...]] = set()

    def take(self, begin: int, end: int, entry: Any) -> None:
        problems = [f"shard {self.count} {problem}" for problem in entry_problems(entry)]
        self.problems += problems[: _TOLD - len(self.problems)]
        self.count += 1
        if problems:
            return
        self._table.add(begin, end, entry)
        raw, downloaded = entry["raw_data"], entry.get("zip_data") or entry["raw_data"]
        told = (raw["basename"], raw["bytes"], entry["samples"], sorted(raw["hashes"].items()))
        self._digest.update(repr(told).encode())
        self._is_hashed &= bool(raw["hashes"])
        self._layouts.add(tuple(zip(entry["column_names"], entry["column_encodings"], strict=True)))
        self._hashes.add(tuple(sorted(downloaded["hashes"])))

    def index(self, text: bytes, source: Shards) -> Index:
        about = (self._digest.hexdigest(), self._is_hashed, frozenset(self._layouts), frozenset(self._hashes))
        return Index(source, self._table.build(text), *about)


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
    for ours, theirs in wanted.items():
        for layout in sorted(index.layouts):
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
    for hashes in sorted(index.hashes):
        if validate_hash not in hashes:
            known = ", ".join(hashes) or "no hashes"
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


def _is_readable(ours: str, encoding: str) -> bool:
    kind, _, form = encoding.partition(":")
    if ours in _NUMBERS and kind == "ndarray" and form and not _NUMBERS[ours].match(form):
        return False
    return encoding in _READABLE.get(ours, ()) or columns.allows(ours, encoding)
