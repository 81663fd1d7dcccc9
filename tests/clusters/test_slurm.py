"""clusters/slurm.sbatch on a real Slurm: preempted, queued again, finished on fewer nodes, with the same losses."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from numpy.testing import assert_allclose

from maws_composer.reporting.metrics_file import read_metrics
from tests.clusters.slurm import Slurm, missing
from tests.processes import ROOT
from tests.runs import Finished, Runs, steps_done

pytestmark = [pytest.mark.skipif(missing() is not None, reason=str(missing())), pytest.mark.timeout(900)]

TEMPLATE = ROOT / "clusters/slurm.sbatch"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with Slurm(tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm


class Job:
    """The template with a miniature recipe, queued."""

    def __init__(self, slurm: Slurm, folder: Path, images: Path, *overrides: str) -> None:
        self.slurm = slurm
        self.run_folder = folder / "run"
        self.log = folder / "log"
        script = folder / "edited.sbatch"
        script.write_text(edited(TEMPLATE.read_text()))
        runs = Runs(folder, images)
        slurm.environment |= {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "MASTER_ADDR": "127.0.0.1",  # the names of nodes are not known here
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        arguments = (str(runs.recipe), f"save_folder={self.run_folder}", "run_name=run", *overrides)
        self.number = slurm.submit(f"--chdir={ROOT}", f"--output={self.log}", str(script), *arguments)

    def wait_until(self, happened: Callable[[], bool], seconds: float = 400) -> None:
        until = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < until, f"{self.state}\n{self.log.read_text() if self.log.exists() else ''}"
            time.sleep(0.2)

    def wait(self) -> None:
        self.wait_until(lambda: self.state in ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL"))

    @property
    def state(self) -> str:
        return self.slurm.job(self.number)["JobState"]

    @property
    def losses(self) -> list[float]:
        return [step["loss"] for step in read_metrics(self.run_folder)]

    @property
    def status(self) -> dict:
        return json.loads((self.run_folder / "status.json").read_text())


def edited(template: str) -> str:
    """As a user would, for nodes of two cores and one GPU, and an environment that is active."""
    for theirs, ours in {
        "--gpus-per-node=8": "--gpus-per-node=1",
        "--nodes=1-8": "--nodes=1-2",
        "source .venv/bin/activate\n": "",
    }.items():
        assert theirs in template
        template = template.replace(theirs, ours)
    return template


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Finished:
    """50 steps, not interrupted, without Slurm."""
    finished = Runs(tmp_path_factory.mktemp("whole"), images)("whole")
    assert finished.code == 0, finished.output
    return finished


def sleeping(batch: int) -> tuple[str, ...]:
    """Time to do something to a run: it sleeps before its next step after this one."""
    return ("code_paths=[tests/plugins]", f"callbacks.sleep_at.batch={batch}", "callbacks.sleep_at.seconds=5")


def test_a_preempted_job_is_queued_again_and_finishes_on_fewer_nodes(
    slurm: Slurm, whole: Finished, images: Path, tmp_path: Path
) -> None:
    job = Job(slurm, tmp_path, images, *sleeping(8))
    job.wait_until(lambda: steps_done(job.run_folder) >= 7)
    urgent = slurm.submit("--partition=urgent", "--output=/dev/null", "--wrap=sleep 600")
    job.wait_until(lambda: slurm.job(urgent)["JobState"] == "RUNNING")
    saved = job.status
    assert saved["state"] == "preempted" and saved["world_size"] == 2 and 7 <= saved["batch"] < 50
    job.wait()
    assert job.state == "COMPLETED", job.log.read_text()
    assert slurm.job(job.number)["Restarts"] == "1" and slurm.job(urgent)["JobState"] == "RUNNING"
    assert job.status["state"] == "finished" and job.status["world_size"] == 1
    assert_allclose(job.losses, whole.losses, rtol=1e-5)
    slurm.cancel(urgent)


@pytest.mark.slow
def test_a_refused_configuration_is_not_queued_again(slurm: Slurm, images: Path, tmp_path: Path) -> None:
    job = Job(slurm, tmp_path, images, "modell.size=vit_b")
    job.wait()
    assert job.state == "FAILED" and slurm.job(job.number)["ExitCode"] == "2:0"
    assert "modell  unknown key; nearest is model" in job.log.read_text()


@pytest.mark.slow
def test_a_cancelled_job_saves_and_is_not_queued_again(slurm: Slurm, images: Path, tmp_path: Path) -> None:
    job = Job(slurm, tmp_path, images, *sleeping(8))
    job.wait_until(lambda: steps_done(job.run_folder) >= 7)
    slurm.cancel(job.number)
    job.wait()
    assert job.state == "CANCELLED" and slurm.job(job.number)["Restarts"] == "0"
    assert job.status["state"] == "preempted"


@pytest.mark.slow
def test_a_job_goes_on_without_a_node_that_was_lost(whole: Finished, images: Path, tmp_path: Path) -> None:
    (tmp_path / "slurm").mkdir()
    with Slurm(tmp_path / "slurm") as slurm:
        job = Job(slurm, tmp_path, images, *sleeping(12))
        job.wait_until(lambda: steps_done(job.run_folder) >= 12)
        slurm.lose("n2")
        job.wait()
        assert job.state == "COMPLETED", job.log.read_text()
        assert slurm.job(job.number)["Restarts"] == "1" and job.status["world_size"] == 1
        assert "ep0-ba10 at batch 10, sample 160" in job.log.read_text()
        assert_allclose(job.losses, whole.losses, rtol=1e-5)
