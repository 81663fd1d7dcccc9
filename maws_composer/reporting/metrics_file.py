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
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = "metrics.jsonl"
Steps = list[dict[str, Any]]
LONGEST_LINE = 1 << 20
_BEGIN = re.compile(rb'\{"batch": (\d+), "samples": (\d+), "loss": ([\d.eE+-]+|null), ')


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
    steps: dict[int, dict[str, Any]] = {}
    for record in records(path):
        while steps and next(reversed(steps)) > record["batch"]:
            steps.popitem()
        steps.setdefault(record["batch"], {}).update(record)
    return list(steps.values())


def records(path: str | Path, in_full: int = 1) -> Iterator[dict[str, Any]]:
    """The file's lines as they stand, steps that were done again included. Arguments and errors: see `read_metrics`.

    Args:
        in_full: read one line in so many in full, and of others batch, samples and loss only: three times as quick. A
            line with more or fewer keys than others, and the one before it, are always read in full.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    with path.open("rb") as lines:
        skipped, before, usual, wrong = b"", -1, -1, ""  # of the line before; what two lines in a row have
        for number, line in enumerate(lines, 1):
            if wrong:
                raise ValueError(wrong)
            keys = line.count(b'": ')
            usual, before = keys if keys == before else usual, keys
            is_usual = keys == usual and line.endswith(b"}\n")
            if number % in_full and is_usual and (begin := _BEGIN.match(line)):
                skipped = line
                loss = None if begin[3] == b"null" else float(begin[3])
                yield {"batch": int(begin[1]), "samples": int(begin[2]), "loss": loss}
                continue
            if not is_usual and skipped and (record := _parse(skipped)):
                yield record
            skipped = b""
            if record := _parse(line):
                yield record
            elif line.strip():
                wrong = f"{path}, line {number}: not a JSON object with a batch: {line.decode(errors='replace'):.60}"
        if skipped and (record := _parse(skipped)):
            yield record


def last_step(path: Path) -> dict[str, Any] | None:
    """The last whole line of a `metrics.jsonl`, without reading the rest; None where there is none."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST_LINE))
        records = (_parse(line) for line in reversed(file.read().splitlines()))
        return next((record for record in records if record is not None), None)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("batch"), int) else None
