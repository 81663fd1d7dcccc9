"""When a run is sent a signal, and who of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.runs import Notify, ranks, session, steps_done

# (run folder, log) -> whether it has come
Moment = Callable[[Path, Path], bool]


def after_steps(count: int) -> Moment:
    """Once so many steps are in metrics.jsonl."""
    return lambda run_folder, log: steps_done(run_folder) >= count


def announced(text: str) -> Moment:
    """Once the run has said so."""
    return lambda run_folder, log: text in log.read_text()


def to_rank(number: int, each: signal.Signals, moment: Moment) -> Notify:
    """One rank gets the signal; the others do not."""

    def notify(launcher: int, run_folder: Path, log: Path) -> bool:
        if len(ranks(launcher)) <= number or not moment(run_folder, log):
            return False
        os.kill(ranks(launcher)[number], each)
        return True

    return notify


def to_launcher(each: signal.Signals, moment: Moment) -> Notify:
    """The launcher gets it, and nobody else."""

    def notify(launcher: int, run_folder: Path, log: Path) -> bool:
        if not moment(run_folder, log):
            return False
        os.kill(launcher, each)
        return True

    return notify


def to_all(each: signal.Signals, moment: Moment) -> Notify:
    """Launcher, ranks and loader workers at once, as when a machine loses power."""

    def notify(launcher: int, run_folder: Path, log: Path) -> bool:
        if not moment(run_folder, log):
            return False
        for process in session(launcher):
            with suppress(ProcessLookupError):
                os.kill(process, each)
        return True

    return notify
