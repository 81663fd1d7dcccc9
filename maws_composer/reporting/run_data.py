"""What a run's folder says of the run, as far as it has got."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from maws_composer.config.durations import samples
from maws_composer.reporting.curves import Curves, read_curves

STARTS = "starts.jsonl"  # a line for each start: when, on what, with which versions (`environment.py`)


@dataclass(frozen=True)
class RunData:
    """A run, as its folder tells of it; what is not there is empty.

    Attributes:
        folder: local.
        address: where it lives, as it was named: a folder or a URL.
        name: `run_name`, or the folder's.
        config: resolved.
        status: `status.json`.
        starts: number of a start -> its line in `starts.jsonl`.
        curves: of `metrics.jsonl`.
    """

    folder: Path
    address: str
    name: str
    config: Mapping[str, Any]
    status: Mapping[str, Any]
    starts: Mapping[int, Mapping[str, Any]]
    curves: Curves

    @property
    def stage(self) -> str:
        return str(self.config.get("stage", ""))

    @property
    def length(self) -> int | None:
        """Samples that are to be trained on."""
        with suppress(ValueError):
            return samples(str(self.config.get("max_duration")))
        return None

    @property
    def flops_per_sample(self) -> float | None:
        """FLOPs of training on one sample, where a start has written them down."""
        known = [start["training_flops"] for start in self.starts.values() if "training_flops" in start]
        return float(known[-1]) if known else None

    def setting(self, key: str) -> Any:
        """The value of a dotted key; None where there is none."""
        value: Any = self.config
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value


def read_run(folder: Path, address: str | None = None) -> RunData:
    """Read a local run folder.

    Args:
        folder: with the run's files.
        address: where the run lives, if these are copies.

    Raises:
        ValueError: a line of metrics.jsonl, not the last one, is no JSON object with a `batch`.
    """
    config = yaml.safe_load(_text(folder / "config.yaml")) or {}
    status = _records(folder / "status.json")
    return RunData(
        folder=folder,
        address=address or str(folder),
        name=str(config.get("run_name") or last_part(address or str(folder))),
        config=config,
        status=status[-1] if status else {},
        starts={start["start"]: start for start in _records(folder / STARTS) if "start" in start},
        curves=read_curves(folder),
    )


def last_part(address: str) -> str:
    """The name of a folder, local or in object storage."""
    return address.rstrip("/").rpartition("/")[2] if "://" in address else Path(address).resolve().name


def is_same_place(address: str, other: str) -> bool:
    """Whether two folders or URLs are one."""
    return place(address) == place(other)


def place(address: str) -> str:
    """A folder or URL in the form that tells whether two are one."""
    return address.rstrip("/") if "://" in address else str(Path(address).resolve())


def _records(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file of lines; a line that was cut off is left out."""
    found = []
    for line in _text(path).splitlines():
        with suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return [record for record in found if isinstance(record, dict)]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
