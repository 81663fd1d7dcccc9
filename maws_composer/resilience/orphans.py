"""Ranks do not outlive their launcher."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from maws_composer.resilience.notice import SIGNALS
from maws_composer.resilience.outcome import FOLDER

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def end_with_launcher() -> None:
    """Have Linux send SIGTERM to this process when the process that started it dies.

    A launcher ended by SIGKILL leaves its ranks running, holding their GPUs, forever. Elsewhere than on Linux this
    does nothing.

    Signals can reach this process from now on: `maws-composer launch` blocks them, and the kernel keeps them, so that
    none is lost while Python starts.
    """
    if not sys.platform.startswith("linux") or "LOCAL_RANK" not in os.environ:
        return
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    end_with_parent(signal.SIGTERM)
    if _launcher_has_died():
        os.kill(os.getpid(), signal.SIGTERM)


def end_with_parent(number: signal.Signals) -> None:
    """Have Linux send this signal when the thread that started this process ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Have Linux make this process the parent of its descendants whose own parent dies."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _launcher_has_died() -> bool:
    """Before we asked to be told."""
    if FOLDER not in os.environ:
        return os.getppid() == 1 and os.getpgid(1) != os.getpgrp()  # in a container, process 1 may be the launcher
    try:
        os.kill(os.getpgrp(), 0)  # `maws-composer launch` has Composer's launcher lead a process group
    except ProcessLookupError:
        return True
    return False
