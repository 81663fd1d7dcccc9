"""What a run has cost so far, over all of its starts.

The numbers go on in three places: in the checkpoint, in `metrics.jsonl` under `run/…`, and in `status.json`, which is
written most often. A start takes them from where they reach furthest, so that what was done after the checkpoint it
resumes, and is lost, counts as well. Within a process all times are of clocks that nobody sets.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from maws_composer.checkpoints.completeness import checkpoint_name
from maws_composer.parallel.precision import say_devices
from maws_composer.resilience.outcome import tell_step

log = logging.getLogger(__name__)

_FRUITLESS_STARTS = 10  # in a row: what is lost each time is not the machines' fault
_TOTALS = ("preemptions", "lost_steps", "lost_seconds", "wall_hours", "gpu_hours")  # which only grow


@dataclass(frozen=True)
class Numbers:
    """A run's numbers at one moment.

    Attributes:
        batch: steps done.
        samples: seen.
        seconds: spent on these steps.
        start: which start of the run it is, from 1 on.
        world_size: processes of this start.
        seconds_to_first_step: of this start, from the beginning of its process to the end of a step; 0 before that.
        preemptions: starts that ended by a notice.
        lost_steps: done, and done again because no checkpoint had them.
        lost_seconds: spent on these.
        wall_hours: that there were processes; up to the last status where they were killed.
        gpu_hours: the same, times processes.
        begun_at: batch of the checkpoint from which this start goes on.
        fruitless_starts: in a row, up to this one, that began at that batch too, and so left nothing newer behind.
    """

    batch: int = 0
    samples: int = 0
    seconds: float = 0.0
    start: int = 0
    world_size: int = 0
    seconds_to_first_step: float = 0.0
    preemptions: int = 0
    lost_steps: int = 0
    lost_seconds: float = 0.0
    wall_hours: float = 0.0
    gpu_hours: float = 0.0
    begun_at: int = 0
    fruitless_starts: int = 0

    @property
    def reach(self) -> tuple[int, float]:
        """Orders what was written of one run at different moments."""
        return self.start, self.wall_hours


def numbers_in(record: Mapping[str, Any]) -> Numbers:
    """Those of a status or of a step of metrics.jsonl; what is missing, or is no number, is 0."""
    known: dict[str, Any] = {}
    for field in fields(Numbers):
        value = record.get(f"run/{field.name}", record.get(field.name))
        if isinstance(value, (int, float)):
            known[field.name] = value
    return Numbers(**known)


class RunHistory(Callback):
    """Counts, keeps the counts in checkpoints, and logs them: most with every step, the rest with a start's first.

    Args:
        before: the numbers that earlier starts left behind.
    """

    def __init__(self, before: Numbers) -> None:
        self._began = time.monotonic() - _age_of_process()
        self._saved_on: int | None = None
        self._before = before
        self._now = _next_start(before)
        self._at_step = self.numbers

    @property
    def numbers(self) -> Numbers:
        """Up to this moment; other threads may ask too."""
        hours = (time.monotonic() - self._began) / 3600
        return replace(
            self._now,
            wall_hours=round(self._before.wall_hours + hours, 6),
            gpu_hours=round(self._before.gpu_hours + hours * self._now.world_size, 6),
        )

    def count_preemption(self) -> None:
        self._now = replace(self._now, preemptions=self._now.preemptions + 1)

    def after_load(self, state: State, logger: Logger) -> None:
        before = self._now if self._has_stepped else self._before
        self._reach(state)
        lost_steps = max(before.batch - self._now.batch, 0)
        lost_seconds = max(before.seconds - self._now.seconds, 0.0) if lost_steps else 0.0
        self._now = replace(
            self._now,
            lost_steps=before.lost_steps + lost_steps,
            lost_seconds=round(before.lost_seconds + lost_seconds, 3),
        )
        if not self._has_stepped:
            is_fruitless = before.start > 0 and before.begun_at == self._now.batch
            fruitless_starts = before.fruitless_starts + 1 if is_fruitless else 0
            self._now = replace(self._now, begun_at=self._now.batch, fruitless_starts=fruitless_starts)
        if self._now.batch or self._now.start > 1:
            log.info("%s", self._say(state, lost_steps, lost_seconds))

    def batch_end(self, state: State, logger: Logger) -> None:
        self._reach(state)
        is_first = not self._has_stepped
        if is_first:
            self._now = replace(self._now, seconds_to_first_step=round(time.monotonic() - self._began, 3))
            if self._now.fruitless_starts < _FRUITLESS_STARTS:
                tell_step()
        self._at_step = self.numbers
        numbers = asdict(self._at_step)
        names = ["start", "wall_hours", "gpu_hours"]
        names += ["seconds_to_first_step", "preemptions", "lost_steps", "lost_seconds"] if is_first else []
        logger.log_metrics({f"run/{name}": numbers[name] for name in names})

    def state_dict(self) -> dict[str, Any]:
        return asdict(self._at_step)  # the same however often it is asked for

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._has_stepped:  # the run goes back within this start, which counts on
            return
        saved, before = numbers_in(state), self._before
        self._saved_on = saved.world_size
        furthest = max(before, saved, key=lambda numbers: numbers.reach)  # the checkpoint, if the status is lost
        totals = {name: max(getattr(saved, name), getattr(before, name)) for name in _TOTALS}
        self._before = replace(furthest, **totals)
        self._now = _next_start(self._before)

    @property
    def _has_stepped(self) -> bool:
        """In this process."""
        return self._now.seconds_to_first_step > 0

    def _reach(self, state: State) -> None:
        at = state.timestamp
        seconds = round(at.total_wct.total_seconds(), 3)
        self._now = replace(self._now, batch=int(at.batch), samples=int(at.sample), seconds=seconds)

    def _say(self, state: State, lost_steps: int, lost_seconds: float) -> str:
        now, at = self._now, state.timestamp
        begin = f"resumed {checkpoint_name(int(at.epoch), now.batch)}" if now.batch else "begun again"
        length = f" of {state.max_duration.value:,}" if state.max_duration is not None else ""
        saved = f", saved on {self._saved_on}" if self._saved_on else ""
        again = f"to do again: {_count(lost_steps, 'step')}, {timedelta(seconds=round(lost_seconds))}"
        return (
            f"{begin} at batch {now.batch:,}, sample {now.samples:,}{length}, "
            f"on {say_devices(now.world_size)}{saved}; {again if lost_steps else 'nothing was lost'}; "
            f"start {now.start}, {self._before.gpu_hours:,.2f} GPU-hours so far"
        )


def _next_start(before: Numbers) -> Numbers:
    return replace(before, start=before.start + 1, world_size=dist.get_world_size(), seconds_to_first_step=0.0)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _age_of_process() -> float:
    """Seconds since the kernel started this process, so that slow imports count."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
