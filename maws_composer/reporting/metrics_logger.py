"""What is logged, as lines of `metrics.jsonl`."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import IO, Any

import torch
from composer.core import State
from composer.loggers import Logger, LoggerDestination
from composer.utils import dist

from maws_composer.reporting.metrics_file import FILE, LONGEST_LINE

_LOSS = "loss/train/total"
# the first two are `batch` and `samples`; the others follow from them
_TIMES = frozenset(f"time/{name}" for name in ("batch", "sample", "batch_in_epoch", "sample_in_epoch", "epoch"))


class MetricsFile(LoggerDestination):
    """Writes `metrics.jsonl` on rank 0.

    A step is written as soon as it ends, before its checkpoint is saved: no step that a resumed run leaves out can be
    missing. What is logged between two steps goes with the second.

    Args:
        run_folder: where; made if it is not there.
    """

    def __init__(self, run_folder: str | Path) -> None:
        self._path = Path(run_folder) / FILE
        self._file: IO[str] | None = None
        self._values: dict[str, Any] = {}
        self._last: dict[str, Any] = {}

    def init(self, state: State, logger: Logger) -> None:
        if dist.get_global_rank() == 0:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            _end_last_line(self._path)
            self._file = self._path.open("a", encoding="utf-8", buffering=1)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self._file is not None:
            self._values.update({_name(key): _plain(value) for key, value in metrics.items() if key not in _TIMES})

    def after_load(self, state: State, logger: Logger) -> None:
        self._values, self._last = {}, {}  # of the step that a run goes back from

    def fit_start(self, state: State, logger: Logger) -> None:
        if self._values and state.timestamp.batch > 0:  # an evaluation was made up for, perhaps
            self._write(state)

    def batch_end(self, state: State, logger: Logger) -> None:
        self._write(state)

    def eval_end(self, state: State, logger: Logger) -> None:
        self._write(state)

    def fit_end(self, state: State, logger: Logger) -> None:
        if self._values and self._last:
            self._write(state)

    def close(self, state: State, logger: Logger) -> None:
        if self._file is not None:
            if self._values and state.max_duration is not None and state.timestamp >= state.max_duration:
                self._write(state)  # of an evaluation after the last step, that was made up for
            self._file.close()
            self._file = None

    def _write(self, state: State) -> None:
        """Write what is known of the step that ended last."""
        if self._file is None:
            return
        time = state.timestamp
        step = {"batch": int(time.batch.value), "samples": int(time.sample.value)}
        if self._last.get("batch") == step["batch"]:
            step = self._last
        elif "loss" in self._values:
            step["loss"] = self._values["loss"]  # third, for those who read the file themselves
        spent = {"seconds": round(time.total_wct.total_seconds(), 3), "world_size": dist.get_world_size()}
        self._last = {**step, **self._values, **spent}
        self._values = {}
        self._file.write(json.dumps(self._last) + "\n")


def _end_last_line(path: Path) -> None:
    """Cut off a line that a kill left unfinished: what is appended would stick to it."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        begin = max(0, file.seek(0, os.SEEK_END) - LONGEST_LINE)
        file.seek(begin)
        file.truncate(begin + file.read().rfind(b"\n") + 1)


def _name(key: str) -> str:
    return "loss" if key == _LOSS else key


def _plain(value: Any) -> Any:
    """The value as JSON knows it."""
    if isinstance(value, torch.Tensor):
        value = value.item() if value.numel() == 1 else value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (int, str, bool, list, type(None))) else str(value)
