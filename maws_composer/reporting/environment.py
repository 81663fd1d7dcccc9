"""What a run runs on: a line of `starts.jsonl` for each of its starts."""

from __future__ import annotations

import json
import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from maws_composer.checkpoints.run_folder import RunFolder, fetch
from maws_composer.config.run import Run
from maws_composer.planning.plan import workload_of
from maws_composer.reporting.run_data import STARTS
from maws_composer.resilience.history import Numbers

_PACKAGES = ("torch", "mosaicml", "mosaicml-streaming", "timm", "transformers", "maws_composer")


def note_start(folder: RunFolder, run: Run, numbers: Numbers) -> None:
    """Add a line for this start, to those that earlier ones left where the run lives.

    Args:
        folder: of the run.
        run: for the FLOPs of a sample.
        numbers: of the run at this moment: which hour of the run this time of day is.

    Raises:
        StorageError: object storage was away for too long.
    """
    folder.insist(lambda: fetch(folder, STARTS), STARTS)
    start: dict[str, Any] = {
        "start": numbers.start,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "wall_hours": numbers.wall_hours,
        "world_size": numbers.world_size,
        "training_flops": workload_of(run).training_flops,
        **_environment(),
    }
    with (folder.local / STARTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(start) + "\n")


def _environment() -> dict[str, str]:
    cuda = torch.version.cuda
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})"
    versions = {name: _version(name) for name in _PACKAGES}
    return {"device": device, "python": platform.python_version(), **({"cuda": cuda} if cuda else {}), **versions}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a folder that nobody installed
        return "not installed"
