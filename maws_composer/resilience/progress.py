"""Signs that a rank gets on. The watchdog takes their absence, on all ranks at once, for a hang.

Whatever may take minutes says that it goes on, or that it waits for something that has a limit of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from composer.core import Callback, Event, State
from composer.loggers import Logger


@dataclass
class Progress:
    """Of this process.

    Attributes:
        signs: how many there were.
        doing: the last thing that was heard of.
        waits: of those that have limits of their own, how many are under way.
        has_stepped: a step has ended, of training or, where that is all, of an evaluation.
    """

    signs: int = 0
    doing: str = "starting"
    waits: int = 0
    has_stepped: bool = False


progress = Progress()
_lock = threading.Lock()


def progressed(doing: str) -> None:
    """Say what is done now. Cheap: may be called for every batch."""
    progress.signs += 1
    progress.doing = doing


@contextmanager
def limited_wait(doing: str) -> Iterator[None]:
    """Around a wait that ends by itself, however long it takes: for as long, no rank counts as stuck."""
    progressed(doing)
    with _lock:
        progress.waits += 1
    try:
        yield
    finally:
        with _lock:
            progress.waits -= 1
        progressed(f"after: {doing}")


def stepped() -> None:
    """Say that a step has ended: nothing compiles from here on, and the next sign comes soon."""
    progress.has_stepped = True


class ProgressOfTraining(Callback):
    """Every event of Composer's is a sign."""

    def run_event(self, event: Event, state: State, logger: Logger) -> None:
        progressed(f"{event.value} of batch {int(state.timestamp.batch)}")
        if event == Event.BATCH_END and not progress.has_stepped:
            stepped()
