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
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
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
from maws_composer.data.guards import readable_size

log = logging.getLogger(__name__)

PATIENCE = 30.0  # seconds; the workers of a killed run notice within five
_PREFIX_FILE = "shared_memory"
_LOCK = ".lock"
_NAME = re.compile(r".+-(?P<run>[0-9a-f]{16})-[0-9a-f]{16}-node\d+")
_BOOT = Path("/proc/sys/kernel/random/boot_id")

_locks: dict[Path, IO[str]] = {}
_own_prefixes: set[int] = set()


def run_folder(scratch: str, save_folder: str, dataset: str, addresses: Sequence[str], node: int) -> Path:
    """The folder of one dataset of one run on one node.

    By node, since nodes of a test share a machine, and since a shared disk taken for a local one would otherwise mix
    the caches of all nodes.
    """
    return Path(scratch) / "data" / f"{dataset}-{_digest(save_folder)}-{_digest(dataset, *addresses)}-node{node}"


def claim(folder: Path, key: str, patience: float = PATIENCE) -> None:
    """Take a folder for this process, for as long as it or a worker that it forks lives.

    Raises:
        ConfigError: another living process has it.
    """
    path = folder.resolve() / _LOCK
    if path in _locks:
        return
    give_up = time.monotonic() + patience
    while (file := _lock(path)) is None:
        if time.monotonic() > give_up:
            owner = next(iter(path.read_text().split()), "unknown")
            raise ConfigError([Problem(key, f"{folder} is in use by another run (process {owner}); give each its own")])
        time.sleep(0.2)
    file.truncate(0)
    file.write(f"{os.getpid()}\n{_machine()}\n")
    file.flush()
    _locks[path] = file


def free_abandoned(scratch: str, save_folder: str) -> None:
    """Remove the folders of datasets whose runs have ended, or died, on this machine, and say what that frees.

    Those of the run in `save_folder` stay: it goes on with its caches. So do those that another machine has made, on a
    disk that both see: a lock may not be seen by both.
    """
    freed = 0
    removed: list[str] = []
    for folder in sorted((Path(scratch) / "data").glob("*")):
        name = _NAME.fullmatch(folder.name)
        if name is None or name["run"] == _digest(save_folder) or folder.is_symlink():
            continue
        with suppress(OSError):  # another user's, or another run frees it
            if (size := _remove_if_abandoned(folder)) is not None:
                freed += size
                removed.append(folder.name)
    if removed:
        folders = ", ".join(removed)
        log.info("freed %s in %s/data, left there by runs that are over: %s", readable_size(freed), scratch, folders)


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


def _remove_if_abandoned(folder: Path) -> int | None:
    """Bytes that were freed; None of a folder that is in use, or that this machine did not make."""
    path = folder / _LOCK
    if not path.is_file() or path.read_text().split()[1:] != [_machine()] or (lock := _lock(path)) is None:
        return None
    with lock:
        _remove_leftovers(folder / _PREFIX_FILE)
        size = sum(each.lstat().st_size for each in folder.rglob("*") if each.is_file())
        # Its run may begin again meanwhile, and does not have to wait for what may take minutes.
        doomed = folder.rename(folder.with_name(f"freed-{folder.name}"))
        for inside in doomed.iterdir():
            if inside.is_dir() and not inside.is_symlink():
                shutil.rmtree(inside)
            elif inside.name != _LOCK:  # the last: another start can tell by it that this one was interrupted
                inside.unlink()
        shutil.rmtree(doomed)
    return size


def _lock(path: Path) -> IO[str] | None:
    """The file, open and locked; None if another process has it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a+")
        except FileNotFoundError:  # the folder was freed just now
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
        file.close()  # freed just now: a lock that nobody else will see


def _machine() -> str:
    """This machine since its start, seen from any container: where its kernel keeps locks."""
    return _BOOT.read_text().strip() if _BOOT.exists() else socket.gethostname()


def _digest(*texts: str) -> str:
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=8).hexdigest()
