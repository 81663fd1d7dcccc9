"""One row of the fault matrix: what was done to a run, what it did then, and what that cost.

A row ends with the uninterrupted run's curve and each sample exactly once, or with a clear error and a state from
which the same command goes on to that curve.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from numpy.testing import assert_allclose

from tests.runs import Finished, Runs
from tests.samples import samples_of

SAVE_INTERVAL = 10
STEPS = 50


@dataclass
class Row:
    """What a test of a fault writes down.

    Attributes:
        folder: where runs note their samples.
        lost: steps that were done twice; None: nothing was.
        told: the sentence with which a run ended or was refused.
    """

    folder: Path
    lost: int = 0
    told: str = ""

    @property
    def recording(self) -> tuple[str, ...]:
        """Overrides with which a run notes the samples of each batch."""
        return ("code_paths=[tests/plugins]", f"callbacks.record_ids.folder={self.folder / 'ids'}")

    def error(self, ended: Finished, sentence: str) -> None:
        """The run ended by itself, not well, and said so on one line."""
        assert ended.code != 0, ended.output
        lines = [line for line in ended.output.splitlines() if sentence in line]
        assert lines, f"{sentence!r} is not in:\n{ended.output}"
        self.told = sentence

    def same_run(self, again: Finished, whole: Finished) -> None:
        """It came to its end: the curve to 1e-5, the samples of every batch, and what was done twice."""
        assert again.code == 0, again.output
        assert again.status["state"] == "finished"
        assert_allclose(again.losses, whole.losses, rtol=1e-5)
        samples = samples_of(self.folder / "ids")
        assert samples == samples_of(whole.folder.parent / "ids")
        self.lost += steps_done_twice(again.folder)


def uninterrupted(runs: Runs) -> Finished:
    """The run that all rows are compared with; its samples are noted beside it."""
    finished = runs("whole", *Row(runs.folder).recording)
    assert finished.code == 0, finished.output
    assert len(finished.losses) == STEPS
    samples = samples_of(runs.folder / "ids")
    first_epoch = [sample for batch in range(32) for sample in samples[batch]]
    assert len(set(first_epoch)) == len(first_epoch) == 512  # each exactly once
    return finished


def steps_done_twice(run_folder: Path) -> int:
    """How often metrics.jsonl goes back, by how many steps in all."""
    last, lost = 0, 0
    for line in (run_folder / "metrics.jsonl").read_text().splitlines():
        step = json.loads(line)
        if step["batch"] == last and any(key.startswith("metrics/") for key in step):
            continue  # an evaluation after the step
        lost += max(last - step["batch"] + 1, 0)
        last = step["batch"]
    return lost
