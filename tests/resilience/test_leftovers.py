"""What killed runs leave on a machine blocks nobody, and runs that live on it together leave each other alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from numpy.testing import assert_allclose

from tests.runs import Finished, Runs, steps_done


@pytest.mark.parametrize("locks_too", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_beside_another_and_both_end_as_if_alone(
    runs: Runs, images: Path, tmp_path: Path, locks_too: bool
) -> None:
    def cached(seed: int) -> tuple[str, ...]:
        folder = f"speed.scratch_folder={tmp_path / 'scratch'}"
        return f"data.train.remote={images}", "data.train.local=null", folder, "speed.workers=1", f"seed={seed}"

    killed = runs("killed", *cached(0), processes=2, kill_after=12)
    (folder,) = (tmp_path / "scratch" / "data").glob("train-*")
    prefix = f"{int((folder / 'shared_memory').read_text()):06}_"
    assert segments(prefix), "the killed run left nothing"
    if not locks_too:  # as after a clean-up of temporary files
        for lock in folder.glob(f"{prefix}*"):
            lock.unlink()

    again: list[Finished] = []

    def beside(launcher: int, run_folder: Path, log: Path) -> bool:
        if steps_done(run_folder) >= 5:
            again.append(runs("killed", *cached(0), processes=2))
        return bool(again)

    slow = ("code_paths=[tests/plugins]", "callbacks.sleep_at.batch=5", "callbacks.sleep_at.seconds=20")
    other = runs("other", *cached(1), *slow, notify=beside)
    for finished, seed in ((again[0], 0), (other, 1)):
        assert finished.code == 0, finished.output
        assert_allclose(finished.losses, runs(f"alone-{seed}", f"seed={seed}").losses, rtol=1e-5)
    assert f"ep0-ba{10 * (len(killed.steps) // 10)} at batch" in again[0].output
    assert not segments(prefix)


def segments(prefix: str) -> list[Path]:
    return list(Path("/dev/shm").glob(f"{prefix}*"))


@pytest.mark.slow
def test_a_run_that_is_started_twice_at_once_goes_on_once(runs: Runs) -> None:
    refused: list[Finished] = []

    def once_more(launcher: int, run_folder: Path, log: Path) -> bool:
        if steps_done(run_folder) >= 5:
            refused.append(runs("twice"))
        return bool(refused)

    slow = ("code_paths=[tests/plugins]", "callbacks.sleep_at.batch=5", "callbacks.sleep_at.seconds=110")
    first = runs("twice", *slow, notify=once_more)
    assert refused[0].code == 2
    assert "another process is training in" in refused[0].output
    assert first.code == 0 and len(first.losses) == 50
    assert json.loads((first.folder / "status.json").read_text())["state"] == "finished"
