"""The end of a rank whose run fails: the message of the first failure is what has to be seen, and seen last.

Composer's launcher prints at the very end what the ranks said that crashed, but nothing of those that a signal ended.
So the rank that failed first exits with a code, and the others by a signal, after one line.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from typing import NoReturn

import torch.distributed as dist

# gloo's errors have no class of their own, but begin with the line of its source: [/…/gloo/transport/tcp/pair.cc:534]
_OF_GLOO = re.compile(r"(Gloo \w+ failed with )?\[(enforce fail at )?\S*/gloo/\S+\.\w+:\d+\]")

ADVICE = "The same command goes on from what is saved, on whatever machines are left."


def end_first(text: str) -> NoReturn:
    """By the rank whose message it is, from any thread."""
    print(f"{text}\n{ADVICE}", file=sys.stderr, flush=True)
    os._exit(1)


def end_refused(text: str) -> NoReturn:
    """By every rank, from any thread, where some refuse the configuration: with the code of that."""
    print(text, file=sys.stderr, flush=True)
    os._exit(2)


def end_after_others(text: str) -> NoReturn:
    """By a rank that ends because others have failed, from any thread: in one line, and by a signal."""
    print(text, file=sys.stderr, flush=True)
    ctypes.CDLL(None).signal(int(signal.SIGTERM), None)  # Python's own may only be called from the main thread
    os.kill(os.getpid(), signal.SIGTERM)
    os._exit(1)  # where it was blocked


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error says no more than that another rank is not there."""
    return isinstance(error, dist.DistError) or (type(error) is RuntimeError and bool(_OF_GLOO.match(str(error))))
