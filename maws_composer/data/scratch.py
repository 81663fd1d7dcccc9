"""A folder and a name in shared memory that belong to one dataset of one run on one node, and to nobody else.

Streaming numbers its shared memory from 0 upwards, mistakes what a killed run left for a running one, and cleans up
by deleting other people's; two jobs in one cache folder it does not notice. Here a lock, which the kernel takes back
when its owner dies, tells the living from the dead, and each start takes a new random number.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory as PlainSharedMemory
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np
from streaming.base.constant import LOCALS, SHM_TO_CLEAN
from streaming.base.distributed import barrier
from streaming.base.shared import SharedMemory, _get_path
from streaming.base.world import World

from maws_composer.config.problems import ConfigError, Problem

log = logging.getLogger(__name__)

PATIENCE = 30.0  # seconds; the workers of a killed run notice within five
_PREFIX_FILE = "shared_memory"

_locks: dict[Path, IO[str]] = {}
_own_prefixes: set[int] = set()


def run_folder(scratch: str, save_folder: str, dataset: str, addresses: Sequence[str], node: int) -> Path:
    """The folder of one dataset of one run on one node.

    By node, since nodes of a test share a machine, and since a shared disk taken for a local one would otherwise mix
    the caches of all nodes.
    """
    key = hashlib.blake2b("\0".join([save_folder, dataset, *addresses]).encode(), digest_size=8).hexdigest()
    return Path(scratch) / "data" / f"{dataset}-{key}-node{node}"


def claim(folder: Path, key: str, patience: float = PATIENCE) -> None:
    """Take a folder for this process, for as long as it or a worker that it forks lives.

    Raises:
        ConfigError: another living process has it.
    """
    path = folder.resolve() / ".lock"
    if path in _locks:
        return
    folder.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    give_up = time.monotonic() + patience
    while not _try_lock(file):
        if time.monotonic() > give_up:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            file.close()
            raise ConfigError([Problem(key, f"{folder} is in use by another run (process {owner}); give each its own")])
        time.sleep(0.2)
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    _locks[path] = file


def own_prefix(folder: Path) -> Callable[..., tuple[int, SharedMemory]]:
    """A stand-in for streaming's `get_shm_prefix` that takes a new random number, known from a file in `folder`.

    The local leader must have claimed the folder: whoever wrote the number before is dead, and its shared memory, and
    nobody else's, is removed.
    """

    def get_shm_prefix(
        streams_local: list[str], streams_remote: list[str | None], world: World, retry: int = 0
    ) -> tuple[int, SharedMemory]:
        file = folder / _PREFIX_FILE
        if world.is_local_leader:
            _remove_leftovers(file)
            prefix = secrets.randbelow(10**9)
            _own_prefixes.add(prefix)
            memory = SharedMemory(_get_path(prefix, LOCALS), True, np.int32().nbytes)
            file.write_text(str(prefix))
        barrier()
        if not world.is_local_leader:
            prefix = int(file.read_text())
            memory = SharedMemory(_get_path(prefix, LOCALS), False)
        return prefix, memory

    return get_shm_prefix


@contextmanager
def replaced(module: ModuleType, **names: Any) -> Iterator[None]:
    """Let a module see other objects under some of its names, for a while."""
    before = {name: getattr(module, name) for name in names}
    for name, value in names.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def _remove_leftovers(file: Path) -> None:
    if not file.exists():
        return
    prefix = int(file.read_text() or -1)
    if prefix in _own_prefixes:  # an earlier dataset of this very process
        return
    removed = [name for name in SHM_TO_CLEAN if _unlink(_get_path(prefix, name))]
    for leftover in file.parent.glob(_get_path(prefix, "*")):  # lock files, and what was said of broken shards
        leftover.unlink(missing_ok=True)
    if removed:
        log.info("removed shared memory that a killed run left behind: %s", ", ".join(removed))


def _unlink(name: str) -> bool:
    try:
        memory = PlainSharedMemory(name)
    except (FileNotFoundError, ValueError):
        return False
    memory.close()
    try:
        memory.unlink()
    except FileNotFoundError:  # the dead run's own resource tracker was faster
        resource_tracker.unregister("/" + name, "shared_memory")
    return True


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
