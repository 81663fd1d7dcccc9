"""A notice that the machine, or the job, is about to be taken away: heard at any moment, acted on at the next good one.

SIGTERM, SIGINT, SIGUSR1, SIGUSR2, and what `give_notice` is told. Signals are heard by a thread of their own, through a
pipe that Python's C code writes to, so that one that arrives while the main thread is inside of a collective or a
compiler is heard as well. Imports nothing slow: it comes before the imports that are.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)

# Launchers, schedulers and the kernel pass one notice on several times: within this many seconds it is the same.
ONE_NOTICE = 5.0


class Notice(NamedTuple):
    """Why and when: `at` as time.monotonic() has it."""

    reason: str
    at: float


_set_handler = signal.signal
_notice: Notice | None = None
given = threading.Event()  # for those who wait
_is_listening = False
_is_moot: Callable[[], bool] | None = None


def listen() -> None:
    """Hear signals from now on, whoever else sets handlers for them.

    Composer sets some when it is imported, seconds before its importer could take them back, and they end the process.

    The same signal once more, some seconds later, ends the process at once. Another one does not: a scheduler that said
    SIGUSR1, or a cloud that gave notice, sends SIGTERM later.
    """
    global _is_listening
    if multiprocessing.parent_process() is not None:  # spawned by the rank, which hears for it
        return
    if not _is_listening:
        _is_listening = True
        signal.signal = _keep_hearing  # type: ignore[assignment]
        receiver, sender = os.pipe()
        os.set_blocking(sender, False)
        signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=_be_deaf)
        threading.Thread(target=_hear, args=(receiver,), name="notices", daemon=True).start()
    for each in SIGNALS:
        _set_handler(each, _heard)


def notice() -> Notice | None:
    """The first one, or None."""
    return _notice


def give_notice(reason: str) -> None:
    """As a signal does. May be called from any thread."""
    global _notice
    if _notice is None:
        _notice = Notice(reason, time.monotonic())
        given.set()
        print(f"notice: {reason}; saving at the next step, then leaving", file=sys.stderr, flush=True)


def take_no_notice_if(moot: Callable[[], bool] | None) -> None:
    """Of SIGTERM while `moot()`: launchers send it to the ranks that are left when one has died, and nothing can be
    saved without that one."""
    global _is_moot
    _is_moot = moot


def take_no_notice() -> None:
    """Of SIGTERM, until the process is over; Python gives its own handlers up before that. From the main thread."""
    _set_handler(signal.SIGTERM, signal.SIG_IGN)


def let_signals_end() -> None:
    """Signals end this process from now on: it has nothing left to save, and may be waiting for just that."""
    for each in SIGNALS:
        _set_handler(each, signal.SIG_DFL)


def _keep_hearing(number: int, handler: Any) -> Any:
    """In the place of signal.signal."""
    return signal.getsignal(number) if number in SIGNALS else _set_handler(number, handler)


def _heard(number: int, frame: object) -> None:
    """The thread has it from the pipe."""


def _hear(receiver: int) -> None:
    first: dict[int, float] = {}
    while numbers := os.read(receiver, 1):
        number, now = numbers[0], time.monotonic()
        if number not in SIGNALS:  # others have Python handlers too: SIGCHLD, when a loader's worker ends
            continue
        if number == signal.SIGTERM and _is_moot is not None and _is_moot():
            continue
        name = signal.Signals(number).name
        if now - first.setdefault(number, now) > ONE_NOTICE:
            print(f"notice: {name}, the second; leaving at once", file=sys.stderr, flush=True)
            os._exit(128 + number)
        give_notice(name)


def _be_deaf() -> None:
    """In a forked child: its signals are not the rank's, and whoever forked it may want to end it."""
    signal.set_wakeup_fd(-1)
    signal.signal = _set_handler
    for each in SIGNALS:
        _set_handler(each, signal.SIG_DFL if each == signal.SIGTERM else signal.SIG_IGN)
