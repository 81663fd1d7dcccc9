"""The traceback of an error in somebody else's code, as its author wants to see it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path

_OURS = str(Path(__file__).parent)


def traceback_of(error: BaseException) -> str:
    """As Python prints it, without our frames that led there, and without those of the import machinery."""
    told = traceback.TracebackException.from_exception(error)
    for part in _chain(told):
        part.stack = traceback.StackSummary.from_list(_theirs(part.stack))
    return "".join(told.format()).rstrip()


def _chain(told: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    """An error, and those that it came from."""
    yield told
    for earlier in (told.__cause__, told.__context__):
        if earlier is not None:
            yield from _chain(earlier)


def _theirs(frames: traceback.StackSummary) -> list[traceback.FrameSummary]:
    """From the first frame that is not ours on: what theirs calls of ours is part of the story."""
    called = [frame for frame in frames if "importlib" not in frame.filename]
    first = next((number for number, frame in enumerate(called) if not frame.filename.startswith(_OURS)), len(called))
    return called[first:]
