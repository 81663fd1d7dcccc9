"""Where a rank stands: the stacks of all its threads and of its loader processes; whether it waits for other ranks."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO, Final

import psutil
import torch.distributed

_COLLECTIVES = os.path.dirname(torch.distributed.__file__)
_INSTALLED = os.path.dirname(os.path.dirname(torch.__file__))
_WAITING = "in a collective, called from "
_ASK: Final[int | None] = getattr(signal, "SIGRTMAX", None)  # of Linux; one that no scheduler sends
_ANSWER = 0.5  # seconds for a child to write its stacks
_PAUSE = 0.05


def dump(file: Path) -> None:
    """Write the stacks of all threads to a file and to stderr."""
    with file.open("w") as stream:
        faulthandler.dump_traceback(stream, all_threads=True)
    sys.stderr.flush()
    faulthandler.dump_traceback(sys.__stderr__ or sys.stderr, all_threads=True)


class StacksOfChildren:
    """Has the processes that this one forks from now on, such as a loader's, write their stacks when asked to.

    They inherit C code that answers a signal, and needs neither Python nor its lock for that.

    Args:
        file: for all of them.
    """

    def __init__(self, file: Path) -> None:
        self._file: IO[str] = file.open("a")
        if _ASK is not None:
            faulthandler.register(_ASK, self._file, all_threads=True)

    def dump(self, patience: float) -> None:
        """Ask one after the other, for so many seconds."""
        if _ASK is None:
            return
        until = time.monotonic() + patience
        for child in psutil.Process().children():
            if time.monotonic() < until and _understands(child.pid, _ASK):
                print(f"\nprocess {child.pid}:", file=self._file, flush=True)
                with suppress(ProcessLookupError):
                    os.kill(child.pid, _ASK)
                    self._wait_for_answer()

    def close(self) -> None:
        """Ask no more; without answers, no file."""
        if _ASK is not None:
            faulthandler.unregister(_ASK)
        self._file.close()
        file = Path(self._file.name)
        with suppress(OSError):
            if not file.stat().st_size:
                file.unlink()

    def _wait_for_answer(self) -> None:
        """Until the file has grown, and grows no more: answers shall not mix."""
        asked, before = self._size(), -1
        give_up = time.monotonic() + _ANSWER
        while (size := self._size()) != before or size == asked:
            if time.monotonic() > give_up:
                return
            before = size
            time.sleep(_PAUSE)

    def _size(self) -> int:
        return os.fstat(self._file.fileno()).st_size


def _understands(process: int, signal_number: int) -> bool:
    """Whether it has a handler for a signal, which would end it otherwise. Programs that were started have none."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return False
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:"))
    return bool(caught >> (signal_number - 1) & 1)


def place() -> str:
    """Where the main thread stands, in this project's or a user's own code, and whether it is in a collective."""
    main = threading.main_thread().ident or 0
    # Backward passes on a GPU run in threads that Python did not start; the others have collectives of their own.
    others = {thread.ident for thread in threading.enumerate()} - {main}
    frames = {thread: frame for thread, frame in sys._current_frames().items() if thread not in others}
    waits = any(frame.f_code.co_filename.startswith(_COLLECTIVES) for frame in frames.values())
    ours = _own(frames[main])
    where = f"{ours.f_code.co_filename}:{ours.f_lineno}, in {ours.f_code.co_name}"
    return f"{_WAITING}{where}" if waits else where


def explain(places: Mapping[int, str], hosts: Mapping[int, str]) -> str:
    """Which rank is the one that the others wait for, if that can be told; else where each of them stands.

    Args:
        places: of the ranks; see `place`.
        hosts: of all ranks; who has no place did not say it.
    """
    missing = [rank for rank in hosts if rank not in places]
    elsewhere = [rank for rank, where in places.items() if not where.startswith(_WAITING)]
    outside = [*missing, *elsewhere]
    if outside and len(outside) < len(hosts):
        told = [
            f"rank {rank} ({hosts[rank]}), {places.get(rank, 'which does not say where it is')}" for rank in outside
        ]
        return f"in no collective, while the others wait in one: {'; '.join(told)}"
    groups: dict[str, list[str]] = {}
    for rank, where in places.items():
        groups.setdefault(where, []).append(str(rank))
    return "; ".join(f"rank {', '.join(ranks)}: {where}" for where, ranks in groups.items())


def _own(frame: FrameType) -> FrameType:
    """The innermost frame that is not a library's; the innermost of all if there is none."""
    ours: FrameType | None = frame
    while ours is not None and _is_library(ours.f_code.co_filename):
        ours = ours.f_back
    return ours or frame


def _is_library(file: str) -> bool:
    return file.startswith((_INSTALLED, os.path.dirname(os.__file__), "<"))
