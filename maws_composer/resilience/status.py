"""`status.json` in the run's folder: what a scheduler, or a person, has to know before starting the run again.

    {"state": "preempted", "reason": null, "batch": 1200, "samples": 76800, "world_size": 16, "time": "…"}

`running`; `finished`: nothing is left to do; `preempted`: start it again; `failed`: read `reason` first. A launcher
turns every code of a rank into one of its own, so that exit codes alone cannot say this. A run that was killed without
notice still says `running`, with the step that it began with. A command that is refused, exit code 2, leaves the file
as it was: start again what is `preempted` only if the code was 0.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import Any

import torch.distributed as dist

from maws_composer.checkpoints.run_folder import RunFolder, send
from maws_composer.checkpoints.upload import UploadError, insist
from maws_composer.config.problems import ConfigError
from maws_composer.parallel.agree import on_rank_zero
from maws_composer.reporting.metrics_file import FILE, last_step
from maws_composer.resilience.outcome import tell_launcher
from maws_composer.resilience.preemption import PreemptedError

log = logging.getLogger(__name__)

STATUS = "status.json"
_PATIENCE = 20.0  # seconds: a machine that is taken away has not many


@contextmanager
def status_of(folder: RunFolder) -> Iterator[None]:
    """Write how a run is doing, as it begins and as it ends. A collective.

    That it was preempted is no error, and goes no further: a rank that fails would have the launcher end the others.
    """
    began = time.time() - 1  # what is written has whole seconds
    before = on_rank_zero(lambda: _read(folder))
    on_rank_zero(lambda: _write(folder, "running"))
    try:
        yield
    except ConfigError:  # a command that is refused leaves the run as it was, and all ranks refuse it
        on_rank_zero(lambda: _put(folder, before))
        raise
    except PreemptedError:
        tell_launcher("preempted")
        on_rank_zero(lambda: _write(folder, "preempted"))
        log.info("left after a notice; the same command goes on with the run")
        return
    except BaseException as error:
        tell_launcher("failed", f"{type(error).__name__}: {error}")
        with suppress(Exception):  # the error itself is what has to be seen
            _write_failure(folder, f"{type(error).__name__}: {error}", began)
        raise
    tell_launcher("finished")
    on_rank_zero(lambda: _write(folder, "finished"))


def _write_failure(folder: RunFolder, reason: str, began: float) -> None:
    """By the rank that failed first; the others fail because of it, and with worse reasons."""
    written = json.loads(_read(folder) or "{}")
    if written.get("state") != "failed" or datetime.fromisoformat(written["time"]).timestamp() < began:
        _write(folder, "failed", reason)


def _read(folder: RunFolder) -> str:
    path = folder.home / STATUS
    return path.read_text() if path.exists() else ""


def _write(folder: RunFolder, state: str, reason: str | None = None) -> None:
    step = last_step(folder.local / FILE) or {}
    status: dict[str, Any] = {
        "state": state,
        "reason": reason,
        "batch": step.get("batch", 0),
        "samples": step.get("samples", 0),
        "world_size": dist.get_world_size(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    _put(folder, json.dumps(status) + "\n")


def _put(folder: RunFolder, text: str) -> None:
    if not text:
        return
    draft = folder.local / f"{STATUS}.{os.getpid()}"
    draft.write_text(text)
    draft.replace(folder.local / STATUS)
    try:
        insist(lambda: send(folder, STATUS), f"{folder.url}/{STATUS}", _PATIENCE)
    except UploadError as error:  # the run itself is none the worse
        log.warning("%s", error)
