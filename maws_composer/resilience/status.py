"""`status.json` in the run's folder: what a scheduler, or a person, has to know before starting the run again.

    {"state": "preempted", "reason": null, "batch": 1200, "samples": 76800, …, "time": "…"}

`running`; `finished`: nothing is left to do; `preempted`: start it again; `failed`: read `reason` first. A launcher
turns every code of a rank into one of its own, so that exit codes alone cannot say this. Then the numbers of the run,
see `history.Numbers`. While it runs they are at most half a minute old, so that a run that was killed without notice
still says `running`, and how far it came. A command that is refused, exit code 2, leaves the file as it was: start
again what is `preempted` only if the code was 0, or 75 of `maws-composer launch`.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime, timezone
from itertools import chain, repeat
from typing import Any

import torch.distributed as dist

from maws_composer.checkpoints.completeness import RunPath
from maws_composer.checkpoints.run_folder import RunFolder, send
from maws_composer.checkpoints.under_way import leave_time_to_save
from maws_composer.config.problems import ConfigError
from maws_composer.outages import StorageError, insist
from maws_composer.parallel.agree import on_rank_zero
from maws_composer.reporting.metrics_file import FILE, last_step
from maws_composer.resilience.history import Numbers, RunHistory, numbers_in
from maws_composer.resilience.outcome import tell_launcher
from maws_composer.resilience.preemption import PreemptedError

log = logging.getLogger(__name__)

STATUS = "status.json"
_PATIENCE = 20.0  # seconds: a machine that is taken away has not many
_FAREWELL = 5.0  # seconds for a last update that is under way
_LAST_CHANCE = 25.0  # seconds for a checkpoint under way and this file: launchers kill 30 after another rank's end
_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds between the first updates, when somebody is likely to look
_PAUSE = 30.0  # between the others


@contextmanager
def status_of(folder: RunFolder) -> Iterator[RunHistory]:
    """Write how a run is doing, from its beginning to its end. A collective. Yields what counts for it.

    That it was preempted is no error, and goes no further: a rank that fails would have the launcher end the others.
    """
    text, numbers = on_rank_zero(
        lambda: folder.insist(lambda: (_read(folder.home / STATUS), _left_behind(folder)), STATUS)
    )
    history = RunHistory(numbers)
    on_rank_zero(lambda: _write(folder, history, "running"))
    try:
        with _keeping_up(folder, history):
            yield history
    except ConfigError:  # a command that is refused leaves the run as it was, and all ranks refuse it
        on_rank_zero(lambda: _restore(folder, text))
        raise
    except PreemptedError:
        tell_launcher("preempted")
        history.count_preemption()
        on_rank_zero(lambda: _write(folder, history, "preempted"))
        log.info("left after a notice; the same command goes on with the run")
        return
    except BaseException as error:
        until = time.monotonic() + _LAST_CHANCE
        tell_launcher("failed", f"{type(error).__name__}: {error}")
        with suppress(Exception):  # the error itself is what has to be seen
            write_failure(folder, f"{type(error).__name__}: {error}", history)
        leave_time_to_save(until - time.monotonic())
        raise
    tell_launcher("finished")
    on_rank_zero(lambda: _write(folder, history, "finished"))


def _left_behind(folder: RunFolder) -> Numbers:
    """How far the run came: by its status, here or where it lives, or by a younger line of its metrics."""
    records = [_parse(_read(place / STATUS)) for place in (folder.home, folder.local)]
    status = max(map(numbers_in, records), key=lambda numbers: numbers.reach)
    step = last_step(folder.local / FILE) or {}
    written = numbers_in({**asdict(status), "run/start": 0, **step})
    return max(status, written, key=lambda numbers: (numbers.reach, numbers.batch))


@contextmanager
def _keeping_up(folder: RunFolder, history: RunHistory) -> Iterator[None]:
    """Rank 0 writes the status again and again, in a thread of its own, so that training does not wait for it."""
    over = threading.Event()
    thread = threading.Thread(target=_keep_up, args=(folder, history, over), name="status", daemon=True)
    if dist.get_rank() == 0:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if thread.is_alive():
            thread.join(_FAREWELL)


def _keep_up(folder: RunFolder, history: RunHistory, over: threading.Event) -> None:
    for pause in chain(_PAUSES, repeat(_PAUSE)):
        if over.wait(pause):
            return
        try:
            if _has_failed(folder.local, history):  # by another rank, whose reason has to stay
                return
            _put_locally(folder, _text(history, "running"))
            if not _has_failed(folder.home, history):
                send(folder, STATUS)
        except Exception as error:  # a full disk, or storage that is away; perhaps not the next time
            log.debug("%s: %s", STATUS, error)


def write_failure(folder: RunFolder, reason: str, history: RunHistory) -> None:
    """By the rank that failed first; the others fail because of it, and with worse reasons.

    On this machine first: storage may be away, and the run fail just because of that.
    """
    if _has_failed(folder.local, history):
        return
    _put_locally(folder, _text(history, "failed", reason))
    with suppress(Exception):  # storage that does not answer says nothing
        if _has_failed(folder.home, history):
            return
    _insist(folder, lambda: send(folder, STATUS))


def _has_failed(place: RunPath, history: RunHistory) -> bool:
    """Whether a rank of this start has said so there. Not by the time: clocks differ, and go back."""
    written = _parse(_read(place / STATUS))
    return written.get("state") == "failed" and written.get("start") == history.numbers.start


def _read(path: RunPath) -> str:
    return path.read_text() if path.exists() else ""


def _parse(text: str) -> dict[str, Any]:
    """The record, or nothing where somebody left something else."""
    with suppress(json.JSONDecodeError):
        record = json.loads(text)
        if isinstance(record, dict):
            return record
    return {}


def _text(history: RunHistory, state: str, reason: str | None = None) -> str:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return json.dumps({"state": state, "reason": reason, **asdict(history.numbers), "time": now}) + "\n"


def _write(folder: RunFolder, history: RunHistory, state: str, reason: str | None = None) -> None:
    _put(folder, _text(history, state, reason))


def _restore(folder: RunFolder, text: str) -> None:
    """Leave the file as it was before this start: none, where there was none."""
    if text:
        _put(folder, text)
        return
    (folder.local / STATUS).unlink(missing_ok=True)
    _insist(folder, lambda: (folder.home / STATUS).unlink(missing_ok=True))


def _put(folder: RunFolder, text: str) -> None:
    _put_locally(folder, text)
    _insist(folder, lambda: send(folder, STATUS))


def _insist(folder: RunFolder, action: Callable[[], None]) -> None:
    try:
        insist(action, f"{folder.url}/{STATUS}", _PATIENCE)
    except StorageError as error:  # the run itself is none the worse
        log.warning("%s", error)


def _put_locally(folder: RunFolder, text: str) -> None:
    draft = folder.local / f"{STATUS}.{os.getpid()}-{threading.get_native_id()}"
    draft.write_text(text)
    draft.replace(folder.local / STATUS)
