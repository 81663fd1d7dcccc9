"""A checkpoint is complete, or it does not exist.

`complete.json`, written last, names every file with its size and checksum, and says what wrote them. A folder without
it, or one whose files do not agree with it, was cut off by a kill, a full disk or a broken upload, and is passed over.
Sizes are looked at here; what the bytes are is for `checksums`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from cloudpathlib import CloudPath  # here and elsewhere imported when needed: with all of its clients it is slow

RunPath: TypeAlias = "Path | CloudPath"
MARKER = "complete.json"
_NAME = re.compile(r"ep(\d+)-ba(\d+)")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint. What older versions did not write down is None, or empty.

    Attributes:
        folder: path or URL.
        batch: steps done.
        samples: samples seen.
        files: names and sizes in bytes.
        owes: what the metrics of evaluations begin with that were cut off after its last step, such as "metrics/".
        checksums: names and CRC-32, as eight hexadecimal digits.
        time: when it was saved, in ISO 8601.
        world_size: by how many processes.
        torch, composer: by which versions.
    """

    folder: str
    batch: int
    samples: int
    files: dict[str, int]
    owes: tuple[str, ...] = ()
    checksums: dict[str, str] = field(default_factory=dict)
    time: str | None = None
    world_size: int | None = None
    torch: str | None = None
    composer: str | None = None

    @property
    def name(self) -> str:
        return _last_part(self.folder)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())


@dataclass(frozen=True)
class PassedOver:
    """A folder that looks like a checkpoint, and is none.

    Attributes:
        folder: path or URL.
        batch: which its name says.
        reason: why it is none.
        was_cut_off: it has no marker, so that it never was one; any other has been damaged since.
    """

    folder: str
    batch: int
    reason: str
    was_cut_off: bool = False

    @property
    def name(self) -> str:
        return _last_part(self.folder)


def checkpoint_name(epoch: int, batch: int) -> str:
    """Composer's name for it."""
    return f"ep{epoch}-ba{batch}"


def in_bytes(count: float) -> str:
    """A number of bytes for people: "11.1 MB"."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def write_marker(
    folder: Path,
    files: Mapping[str, int],
    *,
    samples: int,
    world_size: int,
    owes: Sequence[str] = (),
    checksums: Mapping[str, str] | None = None,
) -> None:
    """Declare a local checkpoint complete: atomically, and only once it is really on the disk."""
    about = {
        "files": dict(files),
        "crc32": dict(checksums or {}),
        "samples": samples,
        "owes": list(owes),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "world_size": world_size,
        "torch": version("torch"),
        "composer": version("mosaicml"),
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


def _last_part(folder: str) -> str:
    return folder.rstrip("/").rpartition("/")[2]


def _read(folder: RunPath, batch: int) -> Checkpoint | PassedOver:
    try:
        marker = json.loads((folder / MARKER).read_text())
        checkpoint = _checkpoint(folder, batch, marker)
    except FileNotFoundError:
        reason = f"it has no {MARKER}: saving or uploading it was cut off"
        return PassedOver(str(folder), batch, reason, was_cut_off=True)
    except (ValueError, KeyError, TypeError):
        return PassedOver(str(folder), batch, f"its {MARKER} is not readable")
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    for name, size in checkpoint.files.items():
        if os.path.basename(name) != name:
            return PassedOver(str(folder), batch, f"{MARKER} names {name!r}, which is outside of the folder")
        if sizes.get(name) != size:
            found = "is missing" if name not in sizes else f"has {sizes[name]:,} bytes"
            return PassedOver(str(folder), batch, f"{name} {found}; {size:,} bytes were written")
    return checkpoint


def _checkpoint(folder: RunPath, batch: int, marker: Mapping[str, Any]) -> Checkpoint:
    files = dict(marker["files"])
    return Checkpoint(
        str(folder),
        batch,
        int(marker["samples"]),
        files,
        tuple(marker.get("owes", ())),
        {name: checksum for name, checksum in marker.get("crc32", {}).items() if name in files},
        **{name: marker.get(name) for name in ("time", "world_size", "torch", "composer")},
    )
