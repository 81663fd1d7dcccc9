"""What the ranks of a node tell `maws-composer launch` beyond an exit code, in a folder that it makes for them.

`status.json`: how the run ended, as its first rank here saw it. `failure-rank<N>.txt`: what went wrong on a rank.
`stepped`: this start has done a step, and is not one of many in a row that got no further than one checkpoint.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

FOLDER = "MAWS_COMPOSER_OUTCOME"

# States that only a launcher is told.
LOST = "lost"  # machines or storage were, and the run itself may be as good as before
REFUSED = "refused"  # the configuration, by some ranks only

_STATUS = "status.json"
_STEPPED = "stepped"


class Outcome(NamedTuple):
    """The state, and what went wrong first; None for what nobody said. And whether there was a step before that."""

    state: str | None
    failure: str | None
    has_stepped: bool


def tell_launcher(state: str, reason: str | None = None) -> None:
    """Say how the run ended; the first rank of this node that does so counts. Nobody listens to other launchers'."""
    if folder := os.environ.get(FOLDER):
        with suppress(OSError), (Path(folder) / _STATUS).open("x") as file:
            json.dump({"state": state, "reason": reason}, file)


def tell_failure(rank: int, host: str, text: str) -> None:
    """Say what went wrong, if no other rank of this node has."""
    if not (folder := os.environ.get(FOLDER)) or any(Path(folder).glob("failure-rank*.txt")):
        return
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with suppress(OSError):  # the failure itself is told elsewhere too
        (Path(folder) / f"failure-rank{rank}.txt").write_text(f"{now}, rank {rank} on {host}:\n{text}\n")


def tell_step() -> None:
    """Say that this start gets somewhere, so that it is worth another one if it is lost."""
    if folder := os.environ.get(FOLDER):
        with suppress(OSError):
            (Path(folder) / _STEPPED).touch()


def told(folder: Path) -> Outcome:
    """What the ranks of this node have said."""
    failures = sorted(folder.glob("failure-rank*.txt"), key=lambda file: file.stat().st_mtime_ns)
    try:
        status = json.loads((folder / _STATUS).read_text())
    except (FileNotFoundError, json.JSONDecodeError):  # not there, or its writer was killed
        status = {"state": None, "reason": None}
    failure = failures[0].read_text(errors="replace") if failures else status["reason"]
    return Outcome(status["state"], failure, (folder / _STEPPED).exists())
