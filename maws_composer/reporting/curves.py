"""`metrics.jsonl` as curves: read in one pass, a million steps in seconds, and thinned to what a screen can show."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from maws_composer.reporting.metrics_file import FILE, records

_SHARES = 100  # of a curve, for its medians
_MANY_CHANGES = 5  # of the number of processes
_READ_IN_FULL = 32 << 20  # bytes of metrics.jsonl; of a larger one, only so many lines


class Curve(NamedTuple):
    """A figure against samples; NaN where it was not finite."""

    samples: Float[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]

    @property
    def finite(self) -> Curve:
        known = np.isfinite(self.values)
        return Curve(self.samples[known], self.values[known])


@dataclass
class Start:
    """One start of a run, in hours that there were processes: `run/wall_hours`, which goes on over all starts.

    Attributes:
        number: from 1 on; starts without a step have left nothing.
        world_size: processes.
        first_batch, last_batch: done, whether they were lost or not.
        first_hour, last_hour: at the end of these.
        seconds_to_first_step: from the beginning of the process.
        lost_steps: that had to be done again before and by this start, all in all.
    """

    number: int
    world_size: int
    first_batch: int
    last_batch: int
    first_hour: float
    last_hour: float
    seconds_to_first_step: float
    lost_steps: int

    @property
    def began(self) -> float:
        return self.first_hour - self.seconds_to_first_step / 3600


class Lost(NamedTuple):
    """Work that was done again: from and to which hour it was done first."""

    begin: float
    end: float


@dataclass
class Curves:
    """What counts of a run's steps, a column for each key, and the history behind it.

    Attributes:
        starts: those that made a step, in their order.
        lost: work that was done again, in the order of its loss.
    """

    starts: dict[int, Start] = field(default_factory=dict)
    lost: list[Lost] = field(default_factory=list)
    _batches: array[int] = field(default_factory=lambda: array("q"))
    _samples: array[int] = field(default_factory=lambda: array("q"))
    _columns: dict[str, tuple[array[int], array[float]]] = field(default_factory=dict)  # numbers of steps, values

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, key: str) -> Curve:
        """The curve of a key; an empty one where no step has it."""
        rows, values = self._columns.get(key, (array("q"), array("d")))
        samples = np.array(self._samples, float)
        return Curve(samples[np.array(rows, int)], np.array(values, float))

    @property
    def keys(self) -> list[str]:
        """Those that a step has a number for, in the order of their first appearance."""
        return [key for key, (rows, _) in self._columns.items() if rows]

    def last(self, key: str) -> float | None:
        """The last value, if there is one and it is finite."""
        values = self[key].values
        return float(values[-1]) if len(values) and np.isfinite(values[-1]) else None

    @property
    def lost_steps(self) -> int:
        """Steps that had to be done again so far."""
        return max((start.lost_steps for start in self.starts.values()), default=0)

    @property
    def samples(self) -> int:
        """Trained on so far."""
        return self._samples[-1] if self._samples else 0

    def add(self, record: Mapping[str, Any]) -> None:
        """Add a line of the file; where it goes back to an earlier batch, later ones do not count any more."""
        batch = record["batch"]
        if self._batches and self._batches[-1] > batch:
            self._go_back(batch)
        if not self._batches or self._batches[-1] < batch:
            self._batches.append(batch)
            self._samples.append(record.get("samples", 0))
        row, columns = len(self._batches) - 1, self._columns
        for key, value in record.items():
            if value is None:
                value = float("nan")
            elif not isinstance(value, (int, float)):
                continue
            if (column := columns.get(key)) is None:
                column = columns[key] = (array("q"), array("d"))
            rows, values = column
            if rows and rows[-1] == row:
                values[-1] = value
            else:
                rows.append(row)
                values.append(value)
        if "run/start" in record:
            self._note_start(record)

    def _note_start(self, record: Mapping[str, Any]) -> None:
        number, hour = record["run/start"], record.get("run/wall_hours") or 0.0
        if (start := self.starts.get(number)) is None:
            seconds = record.get("run/seconds_to_first_step") or 0.0
            world_size, batch = record.get("world_size", 1), record["batch"]
            lost_steps = record.get("run/lost_steps") or 0
            self.starts[number] = Start(number, world_size, batch, batch, hour, hour, seconds, lost_steps)
        else:
            start.last_batch, start.last_hour = max(start.last_batch, record["batch"]), hour

    def _go_back(self, batch: int) -> None:
        """Forget what was done after `batch`."""
        kept = bisect_left(self._batches, batch + 1)
        hours = self._columns.get("run/wall_hours")
        if hours is not None and hours[0]:
            cut = bisect_left(hours[0], kept)
            begin = hours[1][cut - 1] if cut else 0.0
            self.lost.append(Lost(begin, hours[1][-1]))
        del self._batches[kept:], self._samples[kept:]
        for rows, values in self._columns.values():
            cut = bisect_left(rows, kept)
            del rows[cut:], values[cut:]


def read_curves(run_folder: Path) -> Curves:
    """The curves of a run, which may not have begun.

    Raises:
        ValueError: see `read_metrics`, which reads small files as records, by the same rules.
    """
    curves, path = Curves(), run_folder / FILE
    if path.exists():
        for record in records(path, in_full=1 + path.stat().st_size // _READ_IN_FULL):
            curves.add(record)
    return curves


def smoothed(curve: Curve, shares: int = _SHARES) -> Curve:
    """Medians over at most `shares` equal shares of the curve: a spike is no bump, and infinite values do not count."""
    samples, values = curve.finite
    if len(samples) <= shares:
        return Curve(samples, values)
    parts = _parts(len(samples), shares)
    middles, medians = [samples[part].mean() for part in parts], [np.median(values[part]) for part in parts]
    return Curve(np.array(middles), np.array(medians))


def outline(curve: Curve, shares: int = 4 * _SHARES) -> Curve:
    """The lowest and the highest point of each of at most `shares` shares, so that no spike gets lost."""
    samples, values = curve.finite
    if len(samples) <= 2 * shares:
        return Curve(samples, values)
    chosen: list[int] = []
    for part in _parts(len(samples), shares):
        lowest, highest = part.start + int(values[part].argmin()), part.start + int(values[part].argmax())
        chosen += sorted({lowest, highest})
    return Curve(samples[chosen], values[chosen])


def throughput(curves: Curves, shares: int = _SHARES) -> Curve:
    """Samples per second, of the time that was spent on training: from `seconds`, which every run logs."""
    samples, seconds = curves["seconds"]
    ends = np.unique(np.linspace(0, max(len(samples) - 1, 0), shares + 1).astype(int))
    if len(ends) < 2:
        return Curve(np.array([]), np.array([]))
    spent = np.maximum(np.diff(seconds[ends]), 1e-9)
    return Curve(samples[ends[1:]], np.diff(samples[ends]) / spent)


def outliers(curves: Curves, sigmas: float = 12.0, window: int = 101) -> list[int]:
    """Batches whose loss stands out from its neighbors': so many deviations (by the median) above the median.

    Those that were left out have been dealt with, and are not among them.
    """
    samples, losses = curves["loss"]
    found: list[int] = []
    for begin in range(0, len(losses) - window // 2, window):
        part = losses[begin : begin + window]
        if np.isfinite(part).sum() < window // 2:
            continue
        median = np.nanmedian(part)
        deviation = 1.4826 * np.nanmedian(np.abs(part - median))
        found += [begin + int(index) for index in np.flatnonzero(part > median + sigmas * deviation + 1e-12)]
    steps, odd = curves["batch"], np.setdiff1d(samples[found], curves["skipped"].samples)
    return [int(batch) for batch in steps.values[np.searchsorted(steps.samples, odd)]]


def evaluation_keys(keys: Iterable[str]) -> list[str]:
    """Keys of evaluation figures: `metrics/<evaluator>/<name>` and `eval/<name>/<figure>`."""
    return [key for key in keys if key.startswith(("metrics/", "eval/")) and key.count("/") >= 2]


def readable(key: str) -> str:
    """`metrics/eval/loss` -> `eval loss`."""
    return key.removeprefix("metrics/").replace("/", " ").replace("_", " ")


def say_processes(starts: Sequence[Start]) -> str:
    """`64, then 32 processes`, or, where that would be long, `8 to 64 processes`."""
    sizes = [start.world_size for start in starts]
    changes = sizes[:1] + [now for before, now in pairwise(sizes) if now != before]
    says = ", then ".join(f"{size:,}" for size in changes)
    if len(changes) > _MANY_CHANGES:
        says = f"{min(sizes):,} to {max(sizes):,}"
    return f"{says} {'process' if changes == [1] else 'processes'}"


def _parts(length: int, number: int) -> list[slice]:
    ends = np.linspace(0, length, number + 1).astype(int)
    return [slice(begin, end) for begin, end in pairwise(ends)]
