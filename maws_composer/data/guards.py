"""What streaming 0.13.0 lets pass in silence, or hangs on, made to be an error that names its cause.

- A shard that is missing or damaged, or a store that is away, ends the epoch early (0 or 1 workers) or hangs (more
  workers, more ranks): the exception dies in a background thread, and others wait for a shard that nobody fetches.
  `ShardStates` tells every process of the node, `DataStream` retries aloud and names the shard.
- A damaged shard stays in the cache, and is not checked again at the next start: `DataStream` checks before it renames.
- `index.json` is believed: see `index.py`.
- A `cache_limit` that evicts shards before they are used runs at full speed without getting anywhere, and on a dataset
  that is not a copy it deletes the data: `cache_problems`.
"""

from __future__ import annotations

import filecmp
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray
from streaming import Stream
from streaming.base.format import FileInfo
from streaming.base.format.mds.reader import MDSReader
from streaming.base.hashing import get_hash
from streaming.base.shared import SharedArray
from streaming.base.util import bytes_to_int
from streaming.base.world import World

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.data.column_reader import ColumnReader
from maws_composer.data.columns import DATASET_FILE
from maws_composer.data.index import (
    INDEX,
    Index,
    column_problems,
    forget_parsed,
    hash_problems,
    parse_index,
    reason,
    with_groups,
)
from maws_composer.data.settings import Source
from maws_composer.data.shard_readers import ShardSize
from maws_composer.data.sources import Shards
from maws_composer.outages import OutageError, refused

log = logging.getLogger(__name__)

FAILED = 4  # after streaming's own states of a shard, 0 to 3
_LONGEST_PAUSE = 60.0
_CHECKSUM_ATTEMPTS = 2
_THEN = "the same command goes on"


class ShardError(RuntimeError):
    """A shard cannot be had; the message names it and says why."""


class ShardStates:
    """Streaming's shared states of the shards, except that to look at a shard that failed is an error.

    All waiting in streaming is a loop that looks at a state, in every process of the node; so all of it ends here.

    Args:
        states: streaming's own.
        reasons: path to which the number of a shard is added, for what was wrong with it.
    """

    def __init__(self, states: SharedArray, reasons: str) -> None:
        self._states = states
        self._reasons = reasons

    def __getitem__(self, shard: int) -> int:
        state = self._states[shard]
        if state == FAILED:
            raise ShardError(self._reason(shard).read_text())
        return state

    def fail(self, shard: int, error: BaseException) -> None:
        """Tell every process of the node that the shard cannot be had."""
        self._reason(shard).write_text(str(error))
        self._states[shard] = FAILED

    def _reason(self, shard: int) -> Path:
        return Path(f"{self._reasons}_{shard}")

    def __setitem__(self, shard: int, state: int) -> None:
        self._states[shard] = state

    def numpy(self) -> NDArray[np.uint8]:
        return self._states.numpy()


class DataStream(Stream):
    """One set of shards: its index checked, its downloads retried aloud, its shards checked before they count.

    Args:
        source: where the shards are.
        folder: of the dataset on this node; shards are copied to a part of it, if they are, their index always.
        columns: our name -> name in the shards.
        settings: of downloading and checking.
        with_groups: read the groups of shards too.
    """

    def __init__(
        self, source: Shards, folder: Path, columns: Mapping[str, str], settings: Source, with_groups: bool = False
    ) -> None:
        local = (source.local or str(folder / "cache" / source.name)) if source.is_cached else source.local
        super().__init__(
            remote=source.remote,
            local=local,
            download_retry=settings.download_retry,
            download_timeout=settings.download_timeout,
            validate_hash=settings.validate_hash,
            keep_zip=False,
        )
        self.source = source
        self.columns = columns
        self.with_groups = with_groups
        self.index_folder = folder / "index" / source.name
        self.index: Index
        self.stop: threading.Event | None = None

    def get_shards(self, world: World, allow_unsafe_types: bool) -> list[ShardSize]:
        """Sizes of all shards, in the place of their readers, from the index that the local leader has saved.

        Raises:
            ConfigError: the groups, a column or a hash is not as it must be; on every rank alike.
        """
        self.index = Index.load(self.index_folder, self.source)
        if self.with_groups:
            self.index = with_groups(self.index, Path(self.local, DATASET_FILE).read_bytes())
        problems = column_problems(self.index, self.columns) + hash_problems(self.index, self.validate_hash)
        if problems:
            raise ConfigError(problems)
        shards = self.index.shards
        return [ShardSize(*size) for size in zip(shards.samples.tolist(), shards.bytes.tolist(), strict=True)]

    def set_up_local(self, shards: Sequence[ShardSize], cache_usage_per_shard: NDArray[np.int64]) -> None:
        """As streaming's, of the shards that have files here."""
        top = os.path.join(self.local, "")
        listing = {os.path.join(folder, name) for folder, _, names in os.walk(top) for name in names}
        names = {os.fsencode(path.removeprefix(top)) for path in listing}
        for number in self.index.shards.with_files(names):
            reader = self.reader(self.index.shards[number])
            cache_usage_per_shard[number] = reader.set_up_local(listing, self.safe_keep_zip)

    def prepare_shard(self, shard: MDSReader) -> int:
        """Have the shard in the cache, whole and checked; returns by how many bytes the cache grew."""
        for attempt in range(1, _CHECKSUM_ATTEMPTS + 1):
            try:
                return super().prepare_shard(shard)
            except ShardError:
                raise
            except Exception as error:
                address = self.source.path(shard.raw_data.basename)
                if not self.source.is_cached:
                    raise ShardError(f"{address} cannot be unpacked: {error}") from error
                shard.evict()  # else the next start would take it for a good one
                if attempt == _CHECKSUM_ATTEMPTS:
                    raise ShardError(f"{address} is damaged: {error}; once it is whole, {_THEN}") from error
                log.warning("%s is damaged (%s); fetching it once more", address, error)
        raise AssertionError

    def fetch_index(self) -> None:
        """In the local leader: read the index, downloaded with what belongs to it, and save it for all processes.

        Raises:
            ConfigError: it cannot be had (OutageError, if it may be soon) or is damaged; or the cache was filled from
            another one, so that its shards are not these.
        """
        path = self._download_index() if self.source.is_cached else Path(self.local, INDEX)
        index = parse_index(path.read_bytes(), self.source)
        if self.source.is_cached:
            self._keep_index(path)
        index.save(self.index_folder)
        forget_parsed(self.source)

    def _download_index(self) -> Path:
        new = Path(self.local, INDEX + ".new")
        new.unlink(missing_ok=True)
        try:
            if self.with_groups:
                Path(self.local, DATASET_FILE).unlink(missing_ok=True)
                self._download_file(DATASET_FILE)
            self._download_file(INDEX, new.name)
        except ShardError as error:
            raise refused(error, Problem(self.source.where, str(error))) from error
        finally:
            self._downloader.clean_up()  # else all workers, forked from here, would talk over its one open connection
        return new

    def _keep_index(self, new: Path) -> None:
        path = new.with_name(INDEX)
        if path.exists() and not filecmp.cmp(path, new, shallow=False):
            message = f"{self.source.address} has changed since {path.parent} was filled from it; delete that folder"
            raise ConfigError([Problem(f"{self.source.key}.local", message)])
        new.rename(path)

    def _download_file(self, from_basename: str, to_basename: str | None = None) -> str:
        address = self.source.path(from_basename)
        local = os.path.join(self.local, to_basename or from_basename)
        if not self.source.is_cached:
            raise ShardError(f"{address} is missing; once it is there, {_THEN}")
        began = time.monotonic()
        for attempt in range(1, self.download_retry + 1):
            try:
                self._downloader.download(address, local, self.download_timeout)
                return local
            except Exception as error:  # every kind of object storage has its own
                self._downloader.clean_up()
                if attempt == self.download_retry or (self.stop and self.stop.is_set()):
                    raise ShardError(
                        f"{address} could not be read in {attempt} attempts, {time.monotonic() - began:.0f} s: "
                        f"{reason(error)}"
                    ) from error
                pause = min(2.0 ** (attempt - 1), _LONGEST_PAUSE) + random.random() / 2
                log.warning(
                    "%s could not be read: %s. Attempt %d of %d; the next in %.0f s",
                    address, reason(error), attempt, self.download_retry, pause,
                )  # fmt: skip
                self._pause(pause)
        raise AssertionError

    def _pause(self, seconds: float) -> None:
        if self.stop:
            self.stop.wait(seconds)
        else:
            time.sleep(seconds)

    def _prepare_shard_part(
        self, raw_info: FileInfo, zip_info: FileInfo | None = None, compression: str | None = None
    ) -> int:
        raw = Path(self.local, raw_info.basename)
        if zip_info or raw.is_file():
            return super()._prepare_shard_part(raw_info, zip_info, compression)
        part = raw.with_name(raw.name + ".part")
        part.unlink(missing_ok=True)
        self._download_file(raw_info.basename, raw_info.basename + ".part")
        try:
            self._check(part, raw_info)
        except ValueError:
            part.unlink()
            raise
        part.rename(raw)
        return raw_info.bytes

    def _check(self, file: Path, info: FileInfo) -> None:
        size = file.stat().st_size
        if size != info.bytes:
            raise ValueError(f"it has {size} bytes instead of {info.bytes}")
        if self.validate_hash and get_hash(self.validate_hash, file.read_bytes()) != info.hashes[self.validate_hash]:
            raise ValueError(f"its {self.validate_hash} is not that of the index")

    def reader(self, shard: Mapping[str, Any]) -> ColumnReader:
        """The reader of a shard, from its entry in the index."""
        files = {part: FileInfo(**shard[part]) if shard.get(part) else None for part in ("raw_data", "zip_data")}
        return ColumnReader(
            self.columns,
            dirname=self.local,
            split=None,
            column_encodings=shard["column_encodings"],
            column_names=shard["column_names"],
            column_sizes=shard["column_sizes"],
            compression=shard.get("compression"),
            hashes=[],
            samples=shard["samples"],
            size_limit=None,
            **files,
        )


def on_leaders(action: Callable[[], None], world: World) -> None:
    """Do `action` in each node's leader; every rank raises if one of them did, so that none waits for it.

    Raises:
        ConfigError: what the leaders found.
    """
    found: list[ConfigError | None] = [None]
    if world.is_local_leader:
        try:
            action()
        except ConfigError as error:
            found = [error]
    if dist.is_available() and dist.is_initialized():
        mine, found = found[0], [None] * dist.get_world_size()
        dist.all_gather_object(found, mine)
    errors = [error for error in found if error is not None]
    if errors:
        kind = OutageError if all(isinstance(error, OutageError) for error in errors) else ConfigError
        raise kind(list(dict.fromkeys(problem for error in errors for problem in error.problems)))


def split_problem(global_batch_size: int, canonical_nodes: int, world_size: int, nodes: int) -> str | None:
    """Why streaming would deal the samples out wrongly, or let other ranks hang; it does not check the one and raises
    in one rank only for the other."""
    if global_batch_size % world_size:
        return f"a global batch of {global_batch_size} cannot be split over {world_size} ranks"
    if canonical_nodes % nodes:
        return f"num_canonical_nodes, {canonical_nodes}, is not a multiple of {nodes} nodes"
    return None


def cache_problems(
    limit: str | int | None, indexes: Sequence[Index], block_size: int, canonical_nodes: int, processes: int
) -> list[Problem]:
    """Whether the cache holds what is read at one time.

    Each canonical node of this machine draws from a block of samples, which lie in as many shards as that takes; each
    loader process holds and fetches some more. With less, a shard is evicted before its last sample is read, and
    fetched again for the next one.

    Args:
        limit: of the cache; None: no limit.
        indexes: of all streams.
        block_size: samples that are shuffled together; 1 without shuffling.
        canonical_nodes: of this machine.
        processes: loader processes of this machine.
    """
    if limit is None:
        return []
    key = f"{indexes[0].source.section}.cache_limit"
    for index in indexes:
        if not index.source.is_cached:
            message = f"{index.source.address} is no copy; a limit would delete it. Leave it out, or set remote too"
            return [Problem(key, message)]
    needed = needed_cache(indexes, block_size, canonical_nodes, processes)
    if bytes_to_int(limit) >= needed:
        return []
    message = f"{limit} is too little: shards would be fetched again and again; {readable_size(needed)} works"
    return [Problem(key, message)]


def needed_cache(indexes: Sequence[Index], block_size: int, canonical_nodes: int, processes: int) -> int:
    """Bytes of cache that are read from at one time; see `cache_problems`."""
    largest = max(index.largest_shard for index in indexes)
    total = sum(index.bytes for index in indexes)
    samples = sum(int(index.sizes.sum()) for index in indexes)
    at_work = canonical_nodes * (block_size * total // samples + 2 * largest)
    index_files = 512 * sum(len(index.shards) for index in indexes)  # bytes of JSON per shard, and these count too
    busy = max(at_work, 8 * largest) + 2 * largest * processes
    return max(min(busy, total), 4 * largest) + index_files  # streaming itself insists on four shards


def readable_size(size: int) -> str:
    """As `cache_limit` is written: rounded up, such as "1200gb"."""
    for unit, factor in (("gb", 1024**3), ("mb", 1024**2), ("kb", 1024)):
        if size >= 10 * factor:
            return f"{-(-size // factor)}{unit}"
    return f"{size}b"
