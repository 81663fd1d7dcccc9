"""A checkpoint is complete, or it does not exist.

`complete.json`, written last, names every file with its size. A folder without it, or one whose files do not agree
with it, was cut off by a kill, a full disk or a broken upload, and is passed over.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from cloudpathlib import CloudPath

RunPath = Path | CloudPath
MARKER = "complete.json"
_NAME = re.compile(r"ep(\d+)-ba(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint.

    Attributes:
        folder: path or URL.
        batch: steps done.
        samples: samples seen.
        files: names and sizes in bytes.
        owes_evaluation: an evaluation was cut off after its last step.
    """

    folder: str
    batch: int
    samples: int
    files: dict[str, int]
    owes_evaluation: bool = False

    @property
    def name(self) -> str:
        return self.folder.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True)
class PassedOver:
    """A folder that looks like a checkpoint, and why it is none."""

    folder: str
    reason: str


def checkpoint_name(epoch: int, batch: int) -> str:
    """Composer's name for it."""
    return f"ep{epoch}-ba{batch}"


def write_marker(
    folder: Path, files: dict[str, int], *, samples: int, world_size: int, owes_evaluation: bool = False
) -> None:
    """Declare a local checkpoint complete: atomically, and only once it is really on the disk."""
    about = {
        "files": files,
        "samples": samples,
        "owes_evaluation": owes_evaluation,
        "world_size": world_size,
        "torch": version("torch"),
    }
    partial = folder / (MARKER + ".partial")
    with partial.open("w") as file:
        json.dump(about, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(folder / MARKER)


def newest_complete(checkpoints: RunPath) -> tuple[Checkpoint | None, list[PassedOver]]:
    """The newest complete checkpoint of a run, and the newer ones that are not."""
    passed_over: list[PassedOver] = []
    for found in read_newest_first(checkpoints):
        if isinstance(found, Checkpoint):
            return found, passed_over
        passed_over.append(found)
    return None, passed_over


def read_newest_first(checkpoints: RunPath) -> Iterator[Checkpoint | PassedOver]:
    """All checkpoints of a run, the newest first, each looked at only when it is asked for."""
    if not checkpoints.exists():
        return
    named = [(match, folder) for folder in checkpoints.iterdir() if (match := _NAME.fullmatch(folder.name))]
    # Composer names the end of an epoch by the old epoch, so the batch alone orders them.
    for match, folder in sorted(named, key=lambda pair: int(pair[0][2]), reverse=True):
        yield _read(folder, batch=int(match[2]))


def read_checkpoint(folder: RunPath) -> Checkpoint | PassedOver:
    """One folder, whatever it is called; under a name that does not say it, the batch is 0."""
    match = _NAME.fullmatch(folder.name)
    return _read(folder, batch=int(match[2]) if match else 0)


def _read(folder: RunPath, batch: int) -> Checkpoint | PassedOver:
    try:
        marker = json.loads((folder / MARKER).read_text())
        files, samples = dict(marker["files"]), int(marker["samples"])
    except FileNotFoundError:
        return PassedOver(str(folder), f"it has no {MARKER}: saving or uploading it was cut off")
    except (ValueError, KeyError, TypeError):
        return PassedOver(str(folder), f"its {MARKER} is not readable")
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    for name, size in files.items():
        if os.path.basename(name) != name:
            return PassedOver(str(folder), f"{MARKER} names {name!r}, which is outside of the folder")
        if sizes.get(name) != size:
            found = "is missing" if name not in sizes else f"has {sizes[name]:,} bytes"
            return PassedOver(str(folder), f"{name} {found}; {size:,} bytes were written")
    return Checkpoint(str(folder), batch, samples, files, bool(marker.get("owes_evaluation")))
