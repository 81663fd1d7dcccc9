"""What killed runs leave on a machine blocks nobody, and runs that live on it together leave each other alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from numpy.testing import assert_allclose

from tests.runs import Finished, Runs, steps_done


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("locks_too", [True, False])
def test_a_killed_run_goes_on_beside_another_and_both_end_as_if_alone(
    runs: Runs, images: Path, tmp_path: Path, locks_too: bool
) -> None:
    folder, both = tmp_path / "scratch", tmp_path / "both are training"
    cached = (f"data.train.remote={images}", "data.train.local=null", f"speed.scratch_folder={folder}")
    short = ("max_duration=480sp", "speed.workers=1")

    runs("killed", *cached, *short, processes=2, kill_after=12)
    (of_data,) = (folder / "data").glob("train-*")
    prefix = f"{int((of_data / 'shared_memory').read_text()):06}_"
    assert segments(prefix), "the killed run left nothing"
    if not locks_too:  # as after a clean-up of temporary files
        for lock in of_data.glob(f"{prefix}*"):
            lock.unlink()

    again: list[Finished] = []

    def at_work_too(launcher: int, run_folder: Path, log: Path) -> bool:
        if "resumed" in log.read_text():
            both.touch()
        return both.exists()

    def beside(launcher: int, run_folder: Path, log: Path) -> bool:
        if steps_done(run_folder) >= 5:
            again.append(runs("killed", *cached, *short, processes=2, notify=at_work_too))
        return bool(again)

    waiting = ("code_paths=[tests/plugins]", "callbacks.sleep_at.batch=5", "callbacks.sleep_at.seconds=300")
    other = runs("other", *cached, *short, *waiting, f"callbacks.sleep_at.until={both}", notify=beside)
    alone = runs("alone", *short)
    for finished in (again[0], other):
        assert finished.code == 0, finished.output
        assert_allclose(finished.losses, alone.losses, rtol=1e-5)
    assert "ep0-ba10 at batch 10" in again[0].output
    assert not segments(prefix)


def segments(prefix: str) -> list[Path]:
    return list(Path("/dev/shm").glob(f"{prefix}*"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_that_is_started_twice_at_once_goes_on_once(runs: Runs, tmp_path: Path) -> None:
    refused: list[Finished] = []
    refused_it = tmp_path / "refused"

    def once_more(launcher: int, run_folder: Path, log: Path) -> bool:
        if steps_done(run_folder) >= 5:
            refused.append(runs("twice"))
            refused_it.touch()
        return bool(refused)

    waiting = ("code_paths=[tests/plugins]", "callbacks.sleep_at.batch=5", "callbacks.sleep_at.seconds=300")
    first = runs("twice", *waiting, f"callbacks.sleep_at.until={refused_it}", notify=once_more, timeout=400)
    assert refused[0].code == 2
    assert "another process is training in" in refused[0].output
    assert first.code == 0 and len(first.losses) == 50
    assert json.loads((first.folder / "status.json").read_text())["state"] == "finished"
