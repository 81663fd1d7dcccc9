"""Where a rank stands: the stacks of all its threads, and whether it waits for other ranks."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

import torch.distributed

_COLLECTIVES = os.path.dirname(torch.distributed.__file__)
_INSTALLED = os.path.dirname(os.path.dirname(torch.__file__))
_WAITING = "in a collective, called from "


def dump(file: Path) -> None:
    """Write the stacks of all threads to a file and to stderr."""
    with file.open("w") as stream:
        faulthandler.dump_traceback(stream, all_threads=True)
    sys.stderr.flush()
    faulthandler.dump_traceback(sys.__stderr__ or sys.stderr, all_threads=True)


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
