"""No run hangs: a rank that dies, falls silent or gets stuck ends the run on all ranks, resumable, saying which it was.

Two threads of each rank: one exchanges signs of life with the others, the other judges by them. Neither needs the main
thread, which may be in a collective that never ends; both need Python's lock, and a rank that holds it for long is as
good as silent: C code then writes down its stacks.
"""

from __future__ import annotations

import atexit
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import torch.distributed as dist
from composer.utils import dist as composer_dist

from maws_composer.checkpoints.run_folder import RunFolder
from maws_composer.checkpoints.under_way import leave_time_to_save
from maws_composer.config.problems import ConfigError
from maws_composer.outages import StorageError
from maws_composer.resilience.failure import end_after_others, end_first, end_refused, is_lost_connection
from maws_composer.resilience.history import RunHistory
from maws_composer.resilience.notice import take_no_notice, take_no_notice_if
from maws_composer.resilience.outcome import LOST, REFUSED, tell_failure, tell_launcher
from maws_composer.resilience.preemption import PreemptedError
from maws_composer.resilience.progress import progress
from maws_composer.resilience.pulse import BEAT, Pulse, Sign, Unchanged, Verdict
from maws_composer.resilience.settings import WatchdogSettings
from maws_composer.resilience.stacks import StacksOfChildren, dump, explain, place
from maws_composer.resilience.status import write_failure

log = logging.getLogger(__name__)

_LOOK = 1.0  # seconds between two
_AGREEMENT = 20.0  # seconds for all ranks to refuse what one does
_LAST_WORDS = 4.0  # seconds for all ranks to hear why the run ends
_LAST_CHANCE = 25.0  # seconds for a rank to write down why it ends
_FAREWELL = 40.0  # seconds that a rank which failed has for its end
_LOCKED = 20.0  # seconds without Python's lock that are worth a note


@contextmanager
def watch_over(folder: RunFolder, settings: WatchdogSettings, history: RunHistory | None = None) -> Iterator[None]:
    """While training and whatever belongs to it; what one rank raises ends the others too. A collective.

    An evaluation is watched over likewise, and has no `history`, nor a status.

    Where all ranks leave by agreement, with PreemptedError or ConfigError, nothing has failed. A ConfigError of some
    ranks only ends all of them, with the same exit code as one of all.
    """
    watchdog = Watchdog(folder, settings, history)
    try:
        yield
    except PreemptedError:
        watchdog.leave()
        raise
    except ConfigError as error:
        watchdog.refuse(error)
        raise
    except BaseException as error:
        watchdog.fail(error)
        raise
    watchdog.leave()


class Watchdog:
    """This rank's.

    Args:
        folder: for stacks and the status.
        settings: what is too long.
        history: for the status. None: there is no status.
    """

    def __init__(self, folder: RunFolder, settings: WatchdogSettings, history: RunHistory | None) -> None:
        self._folder, self._settings, self._history = folder, settings, history
        self._stacks = folder.local / "stacks" / f"rank{dist.get_rank()}.txt"
        self._stacks.parent.mkdir(parents=True, exist_ok=True)
        self._locked = self._stacks.with_suffix(".locked.txt").open("w")
        self._of_workers = StacksOfChildren(self._stacks.with_suffix(".workers.txt"))  # before there are any
        faulthandler.enable()  # a crash in C shall say where it was
        self._pulse = Pulse()
        self._all: dict[int, Sign] = self._pulse.signs(range(self._pulse.world_size))
        first = self._pulse.rank - composer_dist.get_local_rank()
        self._mates = set(range(first, first + composer_dist.get_local_world_size())) - {self._pulse.rank}
        self._listened = list(self._all) if self._pulse.rank == 0 else [0]
        self._signs = {rank: self._all[rank] for rank in self._listened}
        self._quiet = {rank: Unchanged() for rank in self._listened}
        self._idle = Unchanged()
        self._verdict: Verdict | None = None
        self._unheard_since: float | None = None
        self._done = threading.Event()
        self._ending = threading.RLock()  # never given back: one thread ends the process, others wait for that
        take_no_notice_if(lambda: self._verdict is not None or any(map(self._has_ended, self._mates)))
        for work in (self._exchange, self._watch):
            threading.Thread(target=work, name=f"watchdog: {work.__name__[1:]}", daemon=True).start()

    def leave(self) -> None:
        """Be watched no longer, once all ranks are done. A collective."""
        dist.barrier()
        self._stop()

    def refuse(self, error: ConfigError) -> None:
        """Be watched no longer, once all ranks refuse; where some do not, they are in other collectives: end here."""
        self._pulse.come_to(REFUSED)
        if self._pulse.wait_for_others(REFUSED, self._pulse.world_size, _AGREEMENT):
            self._stop()
            return
        text = f"{self._name(self._pulse.rank)} refuses what others do not: {_one_line(error)}"
        self._end(self._announce(Verdict(self._pulse.rank, text, state=REFUSED)))

    def _stop(self) -> None:
        self._done.set()
        take_no_notice_if(None)
        faulthandler.cancel_dump_traceback_later()
        self._remove_if_empty()

    def fail(self, error: BaseException) -> None:
        """Tell the others, and return if this is the first failure; else end here."""
        if is_lost_connection(error):
            verdict = self._missing()
        else:
            text = f"{self._name(self._pulse.rank)} failed: {_one_line(error)}"
            verdict = Verdict(self._pulse.rank, text, state=LOST if isinstance(error, StorageError) else "failed")
        self._ending.acquire()
        verdict = self._announce(verdict)
        if verdict.by != self._pulse.rank or verdict.gone:
            self._end(verdict)
        self._done.set()
        take_no_notice()  # the launcher may not wait until this rank has said everything
        self._tell_launcher(verdict, verdict.text)
        self._let_others_read(verdict)
        # The interpreter waits for threads, which may wait for storage; the process ends all the same.
        faulthandler.dump_traceback_later(_FAREWELL, exit=True, file=self._locked)
        atexit.register(self._remove_if_empty)

    def _exchange(self) -> None:
        while not self._done.is_set():
            progress.signs += progress.waits > 0
            try:
                self._pulse.beat(progress.signs, progress.doing)
                self._signs = self._pulse.signs(self._listened)
                self._verdict = self._verdict or self._pulse.verdict()
                self._unheard_since = None
            except Exception:  # the store was served by rank 0
                self._unheard_since = self._unheard_since or time.monotonic()
            self._done.wait(BEAT)

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._done.wait(_LOOK):
            now = time.monotonic()
            # If this process itself was stopped for a while, so perhaps were the others.
            verdict = self._verdict or self._judge(min(now - before, 2 * _LOOK))
            before = now
            if verdict is not None and not self._done.is_set():
                self._end(verdict)
            self._write_stacks_if_locked()

    def _judge(self, seconds: float) -> Verdict | None:
        """What is wrong, after so many more seconds."""
        silence = self._settings.silence
        quiet = {rank: self._quiet[rank].look(sign.beats, seconds) for rank, sign in self._signs.items()}
        if ended := [rank for rank in self._mates if self._has_ended(rank)]:
            return self._gone(
                ended, "has ended without a word: it crashed, see its output, or was killed, perhaps for memory"
            )
        if self._unheard_since is not None and time.monotonic() - self._unheard_since > 2 * BEAT:
            return self._gone([0], "has ended without a word")
        if silence is not None and (
            silent := [rank for rank, passed in quiet.items() if passed > silence and not self._is_debugged(rank)]
        ):
            return self._gone(silent, f"has not been heard of for {silence:.0f} s: stopped, or its machine is gone")
        idle = self._idle.look(tuple(sign.progress for sign in self._signs.values()), seconds)
        limit = self._settings.limit if progress.has_stepped else self._settings.start_limit
        if self._pulse.rank == 0 and limit is not None and idle > limit:
            return self._announce(
                Verdict(0, f"no rank has got any further for {limit:.0f} s", is_stuck=True, state=LOST)
            )
        return None

    def _gone(self, ranks: list[int], what: str) -> Verdict:
        text = f"{'; '.join(map(self._name, ranks))} {what}"
        return self._announce(Verdict(self._pulse.rank, text, gone=tuple(ranks), state=LOST))

    def _missing(self) -> Verdict:
        """After a connection was lost: who does not beat any more. Meanwhile the other thread may know better."""
        time.sleep(BEAT)
        try:
            before = self._pulse.signs(self._all)
            time.sleep(2 * BEAT)
            after = self._pulse.signs(self._all)
            ranks = tuple(rank for rank in self._all if before[rank].beats == after[rank].beats)
        except dist.DistError:
            ranks = (0,)
        names = "; ".join(map(self._name, ranks))
        text = f"{names} has ended without a word, or its machine is gone" if ranks else "ranks have lost each other"
        return Verdict(self._pulse.rank, text, gone=ranks, state=LOST)

    def _announce(self, verdict: Verdict) -> Verdict:
        if 0 in verdict.gone:  # the store is gone with it
            return verdict
        try:
            return self._pulse.announce(verdict)
        except Exception:
            return verdict

    def _end(self, verdict: Verdict) -> NoReturn:
        """Of this rank, from whichever thread comes first."""
        self._ending.acquire()
        self._verdict = verdict
        text = verdict.text
        in_any_case = threading.Timer(_LAST_CHANCE, end_first, (text,))  # folders may hang too
        in_any_case.daemon = True
        in_any_case.start()
        if verdict.is_stuck:
            text = self._say_where_it_hangs(text)
        is_first = verdict.by == self._pulse.rank
        for rank in self._mates.intersection(verdict.gone):  # else the launcher would wait for it
            if not self._has_ended(rank):
                os.kill(self._all[rank].process, signal.SIGKILL)
        if verdict.by not in self._mates:
            self._tell_launcher(verdict, text)
        if is_first and self._history is not None:
            with suppress(Exception):
                write_failure(self._folder, text, self._history)
        self._let_others_read(verdict)
        self._remove_if_empty()
        if verdict.state == REFUSED:
            end_refused(text)
        if is_first:
            end_first(text)
        if not verdict.gone and not verdict.is_stuck:
            leave_time_to_save(_LAST_CHANCE - 2 * _LAST_WORDS)
        end_after_others(f"rank {self._pulse.rank} ends: {text}")

    def _say_where_it_hangs(self, text: str) -> str:
        dump(self._stacks)
        self._of_workers.dump(_LAST_WORDS)
        text = f"{text}, stuck during: {progress.doing}; the stacks are in {self._stacks.parent}"
        with suppress(Exception):
            self._pulse.say_where(place())
            if self._pulse.rank == 0:
                hosts = {rank: sign.host for rank, sign in self._all.items()}
                return f"{text}; {explain(self._pulse.where(_LAST_WORDS), hosts)}"
        return text

    def _tell_launcher(self, verdict: Verdict, text: str) -> None:
        tell_launcher(verdict.state, text)
        tell_failure(self._pulse.rank, self._pulse.host, text)

    def _let_others_read(self, verdict: Verdict) -> None:
        if 0 in verdict.gone:
            return
        with suppress(Exception):
            self._pulse.come_to("verdict")
            if self._pulse.rank == 0 or verdict.by == self._pulse.rank:  # the store goes with rank 0
                self._pulse.wait_for_others("verdict", self._pulse.world_size - len(verdict.gone), _LAST_WORDS)

    def _write_stacks_if_locked(self) -> None:
        """From C, which does not need Python's lock, should this thread not get it for a while."""
        faulthandler.dump_traceback_later(_LOCKED, file=self._locked)

    def _remove_if_empty(self) -> None:
        """The files of stacks for when this rank holds Python's lock for long, and of loader processes."""
        self._of_workers.close()
        file = Path(self._locked.name)
        with suppress(OSError):
            if not file.stat().st_size:
                file.unlink()

    def _has_ended(self, rank: int) -> bool:
        """Of a rank of this node."""
        return _process_state(self._all[rank].process) in ("", "Z")

    def _is_debugged(self, rank: int) -> bool:
        """Whether a debugger holds a rank of this node."""
        return rank in self._mates and _process_state(self._all[rank].process) == "t"

    def _name(self, rank: int) -> str:
        return f"rank {rank} (process {self._all[rank].process} on {self._all[rank].host})"


def _process_state(process: int) -> str:
    """One letter, as Linux has it: Z for one that ended, t for one that a debugger holds; nothing for none."""
    if not sys.platform.startswith("linux"):
        return "?"
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
