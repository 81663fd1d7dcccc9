"""A sign of life for watchdogs outside of the run."""

from __future__ import annotations

import json
import logging
import os
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

from composer.core import Callback, Event, State
from composer.loggers import Logger
from composer.utils import dist
from pydantic import Field

from maws_composer.registry import register_callback

log = logging.getLogger("maws_composer.callbacks.heartbeat")


@register_callback("heartbeat")
class Heartbeat(Callback):
    """Rank 0 writes a file, whole or not at all: `{"time": "…", "batch": 12, "samples": 768, "doing": "batch_end"}`.

    After any event of training or evaluation, so that the file's age is the time for which nothing has happened; saving
    and the first compile are such times. The last one says `"doing": "finished"`, or `"left"` where the run goes on
    another time: then its age says nothing. A disk that refuses is told once, and does not end the run.

    Args:
        file: on this machine; folders are made.
        seconds: between two signs at least.
    """

    def __init__(self, file: str, seconds: Annotated[float, Field(ge=0)] = 10.0) -> None:
        self.file, self.seconds = Path(file), seconds
        self.next = 0.0
        self.leads = dist.get_global_rank() == 0
        self.has_failed = False

    def run_event(self, event: Event, state: State, logger: Logger) -> None:
        now = time.monotonic()
        if self.leads and now >= self.next:
            self.next = now + self.seconds
            self._beat(event.value, state)

    def close(self, state: State, logger: Logger) -> None:
        if self.leads:
            is_over = state.max_duration is not None and state.timestamp >= state.max_duration
            self._beat("finished" if is_over else "left", state)

    def _beat(self, doing: str, state: State) -> None:
        sign = {
            "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "batch": int(state.timestamp.batch),
            "samples": int(state.timestamp.sample),
            "doing": doing,
        }
        draft = self.file.with_name(f"{self.file.name}.{os.getpid()}")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(sign) + "\n")
            draft.replace(self.file)
        except OSError as error:
            if not self.has_failed:
                log.warning("no heartbeat in %s: %s", self.file, error)
            self.has_failed = True
