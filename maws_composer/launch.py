"""`maws-composer launch`: Composer's launcher on machines that are taken away.

Composer's launcher dies of SIGTERM, or gives its ranks 30 seconds, and returns any of their exit codes. Here it runs
where no signal reaches it. A notice goes to the ranks, at whatever moment of their start they are; then they are waited
for until they have saved. The exit code says what a scheduler has to do.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from itertools import product
from pathlib import Path

import psutil

from maws_composer.nodes import node_environment
from maws_composer.resilience.notice import ONE_NOTICE, SIGNALS
from maws_composer.resilience.orphans import adopt_orphans, end_with_parent
from maws_composer.resilience.outcome import FOLDER, LOST, Outcome, told

FINISHED = 0
FAILED = 1
REFUSED = 2
START_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: the same command may succeed later

# Composer's own options and flags; `script` and `arguments` follow them.
OPTIONS = ("nproc", "world_size", "base_rank", "node_rank", "master_addr", "master_port", "stdout", "stderr")
FLAGS = ("verbose", "module_mode", "command_mode")

_POLL = 0.2  # seconds


def launch(options: argparse.Namespace) -> int:
    """Start the ranks of this node, pass notices on to them, and wait for them.

    Args:
        options: OPTIONS, FLAGS, script and arguments.

    Returns:
        FINISHED; START_AGAIN: preempted, or lost a rank, a node or storage after some steps; REFUSED: the
        configuration, or the command, is wrong; or FAILED.

    Raises:
        ConfigError: the scheduler's environment does not say enough.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # inherited, until `end_with_launcher` of a rank
    adopt_orphans()
    environment = os.environ | node_environment(options.nproc, options.world_size, os.environ)
    with tempfile.TemporaryDirectory(prefix="maws_composer-") as folder:
        composer = subprocess.Popen(
            [sys.executable, "-m", "composer.cli", *_as_arguments(options)],
            env={**environment, FOLDER: folder},
            start_new_session=True,
            preexec_fn=lambda: end_with_parent(signal.SIGKILL),  # its ranks then hear SIGTERM, and save
        )
        composer.returncode, was_noticed = _wait(composer.pid)
        outcome = told(Path(folder))
    return _conclude(outcome, composer.returncode, was_noticed)


def _as_arguments(options: argparse.Namespace) -> list[str]:
    given = [f"--{name}={getattr(options, name)}" for name in OPTIONS if getattr(options, name) is not None]
    flags = [f"--{name}" for name in FLAGS if getattr(options, name)]
    return [*given, *flags, options.script, *options.arguments]


def _wait(composer: int) -> tuple[int, bool]:
    """Until nothing that was started is left; returns Composer's exit code, and whether there was a notice."""
    code, is_over = None, False
    notices: dict[signal.Signals, float] = {}
    notified: set[tuple[int, signal.Signals]] = set()
    while code is None or _children(os.getpid()):
        if heard := signal.sigtimedwait(SIGNALS, _POLL):
            number, now = signal.Signals(heard.si_signo), time.monotonic()
            if now - notices.setdefault(number, now) > ONE_NOTICE:
                is_over = True
        code = _reap().get(composer, code)
        if is_over or (code is not None and code >= 0):  # it waits for its ranks: what they left behind is left
            _kill_all()
        elif code is not None:  # killed, by the kernel for its memory perhaps, and the ranks are ours now
            _tell(_children(os.getpid()), [signal.SIGTERM], notified)
        elif notices:
            _tell(_children(composer), notices, notified)
    return code, bool(notices)


def _tell(
    ranks: Iterable[psutil.Process], notices: Iterable[signal.Signals], notified: set[tuple[int, signal.Signals]]
) -> None:
    """Pass each notice on to each rank once, to those that start later too."""
    for rank, number in product(ranks, notices):
        if (rank.pid, number) not in notified:
            notified.add((rank.pid, number))
            with suppress(psutil.NoSuchProcess):
                rank.send_signal(number)


def _children(process: int) -> list[psutil.Process]:
    try:
        return psutil.Process(process).children()
    except psutil.NoSuchProcess:
        return []


def _reap() -> dict[int, int]:
    """The exit codes of processes that have ended, those of orphans too."""
    ended = {}
    with suppress(ChildProcessError):
        while (one := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            ended[one[0]] = os.waitstatus_to_exitcode(one[1])
    return ended


def _kill_all() -> None:
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _conclude(outcome: Outcome, code: int, was_noticed: bool) -> int:
    """The exit code. What failed first, and what to do, is the last thing on the screen."""
    if outcome.failure:
        print(f"\n{outcome.failure.rstrip()}\n", file=sys.stderr)
    if outcome.state == "finished":
        return FINISHED
    if outcome.state == "preempted" or (was_noticed and code != REFUSED):
        _say("left after a notice; the same command, started again, goes on with the run")
        return START_AGAIN
    if code == REFUSED:
        _say("refused: the mistakes are listed above, and nothing was begun")
        return REFUSED
    if outcome.has_stepped and (outcome.state == LOST or (code and not outcome.failure)):
        lost = "a rank, a node or storage, see above" if outcome.failure else "a rank: killed, for memory perhaps"
        _say(f"lost {lost}; start it again: the same command goes on from the newest complete checkpoint")
        return START_AGAIN
    if outcome.state == LOST:  # a start that gets nowhere is not to be tried again for ever
        _say(
            "failed, see above: a rank, a node or storage was lost before this start had done a step, "
            "or in ten starts in a row from one checkpoint"
        )
        return FAILED
    if outcome.failure:
        _say("failed, see above; once that is put right, the same command goes on from the newest complete checkpoint")
        return FAILED
    if code:
        _say("failed, and no rank said why: its output is above, unless it was killed, for its memory perhaps")
        return FAILED
    return FINISHED


def _say(sentence: str) -> None:
    print(f"launch: {sentence}", file=sys.stderr, flush=True)
