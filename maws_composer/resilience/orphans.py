"""Ranks do not outlive their launcher."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_launcher() -> None:
    """Have Linux send SIGTERM to this process when the process that started it dies.

    A launcher ended by SIGKILL leaves its ranks running, holding their GPUs, forever. Elsewhere than on Linux this
    does nothing.
    """
    if not sys.platform.startswith("linux") or "LOCAL_RANK" not in os.environ:
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1:  # it died before we asked
        os.kill(os.getpid(), signal.SIGTERM)
