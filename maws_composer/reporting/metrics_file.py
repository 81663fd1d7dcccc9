"""`metrics.jsonl`: one JSON object per step, in the run folder.

    {"batch": 12, "samples": 3072, "loss": 0.71, "lr/decayed": 0.0001, …}

`batch` and `samples` count what has been trained on, `loss` is that of this batch, `seconds` the time spent on training
in this and earlier starts, `world_size` the number of processes; `run/…` is what the run has cost so far, work that was
lost included (`resilience/history.py`). null stands for NaN and infinities, which JSON has not. After an evaluation the
batch's object is written again, with more in it. After a rewind or a restart the file goes on with an earlier batch. So
later lines count: `read_metrics` sees to that.
"""

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

FILE = "metrics.jsonl"
Steps = list[dict[str, Any]]
_LOSS = "loss/train/total"
_LONGEST_LINE = 1 << 20
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


def read_metrics(path: str | Path) -> Steps:
    """The steps of a run in order, each batch once.

    Where the file goes back to an earlier batch, what it said of later ones does not count any more; of two lines of
    one batch the later counts, key by key. A last line that was cut off by a kill is left out.

    Args:
        path: `metrics.jsonl`, or the run folder that holds it.

    Raises:
        ValueError: a line, not the last one, is no JSON object with a `batch`.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    steps: dict[int, dict[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        record = _parse(line)
        if record is None:
            if number == len(lines) or not line.strip():
                continue
            raise ValueError(f"{path}, line {number}: not a JSON object with a batch: {line:.60}")
        while steps and next(reversed(steps)) > record["batch"]:
            steps.popitem()
        steps.setdefault(record["batch"], {}).update(record)
    return list(steps.values())


def last_step(path: Path) -> dict[str, Any] | None:
    """The last whole line of a `metrics.jsonl`, without reading the rest; None where there is none."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LONGEST_LINE))
        records = (_parse(line.decode(errors="replace")) for line in reversed(file.read().splitlines()))
        return next((record for record in records if record is not None), None)


def _parse(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("batch"), int) else None


def _end_last_line(path: Path) -> None:
    """Cut off a line that a kill left unfinished: what is appended would stick to it."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        begin = max(0, file.seek(0, os.SEEK_END) - _LONGEST_LINE)
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
