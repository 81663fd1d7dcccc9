"""`skips.json` in the run's folder: which batches are left out because of a loss spike.

    {"spikes": [{"batch": 35, "first": 25, "last": 45}], "discard_after": null}

Batches are counted as in metrics.jsonl: 1 is the first. The file is written before anything follows from it, and sent
to where the run lives, so that a run that is killed at any moment goes on with the same batches left out.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from maws_composer.checkpoints.completeness import RunPath
from maws_composer.checkpoints.run_folder import RunFolder, send

SKIPS = "skips.json"


@dataclass(frozen=True)
class Spike:
    """A spike, and the batches that are seen without an update because of it.

    Attributes:
        batch: the spike's.
        first, last: of those left out.
    """

    batch: int
    first: int
    last: int


@dataclass(frozen=True)
class Skips:
    """All spikes of a run so far.

    Attributes:
        spikes: in the order in which they came.
        discard_after: the run goes back to the checkpoint of this batch, and later ones are not deleted yet.
    """

    spikes: tuple[Spike, ...] = ()
    discard_after: int | None = None

    def __contains__(self, batch: int) -> bool:
        return any(spike.first <= batch <= spike.last for spike in self.spikes)

    def in_a_row(self, batch: int) -> int:
        """How many spikes there have been right before `batch`, without an update between them."""
        before = [spike for spike in self.spikes if spike.first < batch <= spike.last + 1]
        return max((1 + self.in_a_row(spike.first) for spike in before), default=0)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Skips:
        values = json.loads(text)
        return Skips(tuple(Spike(**spike) for spike in values["spikes"]), values["discard_after"])


def read_skips(folder: RunFolder) -> Skips:
    """What the run's folder has, where the run lives.

    Raises:
        StorageError: object storage was away for too long.
    """
    return folder.insist(lambda: _read(folder.home / SKIPS), SKIPS)


def write_skips(folder: RunFolder, skips: Skips) -> None:
    """Replace what the run's folder has.

    Raises:
        StorageError: object storage was away for too long.
    """
    draft = folder.local / f"{SKIPS}.partial"
    draft.write_text(skips.to_json() + "\n")
    draft.replace(folder.local / SKIPS)
    folder.insist(lambda: send(folder, SKIPS), SKIPS)


def _read(file: RunPath) -> Skips:
    return Skips.from_json(file.read_text()) if file.exists() else Skips()
