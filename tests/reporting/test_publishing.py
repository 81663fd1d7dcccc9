"""The report while a run is trained, and what a start writes down of itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import composer
import torch
import yaml
from composer.core import Timestamp

from maws_composer.checkpoints.run_folder import RunFolder
from maws_composer.config.plugins import load_with_ours
from maws_composer.models.sizes import SIZES, DecoderSize
from maws_composer.planning.flops import mae_macs
from maws_composer.reporting.environment import note_start
from maws_composer.reporting.publishing import ReportAtCheckpoints
from maws_composer.reporting.run_data import read_run
from maws_composer.resilience.history import Numbers
from tests.reporting.synthetic import eventful_run


def test_a_report_is_written_at_a_checkpoint_by_a_process_that_nobody_waits_for(tmp_path: Path) -> None:
    folder = eventful_run(tmp_path / "run")
    saved: Any = SimpleNamespace(last_checkpoint_batch=7)
    callback = ReportAtCheckpoints(RunFolder(str(folder), folder), saved, pause=0)
    try:
        callback.batch_checkpoint(_at(8), None)
        assert callback._writer is None, "no checkpoint was saved at this batch"
        callback.batch_checkpoint(_at(7), None)
        writer = callback._writer
        assert writer is not None and writer.poll() is None and os.getpriority(os.PRIO_PROCESS, writer.pid) == 19
        callback.batch_checkpoint(_at(7), None)
        assert callback._writer is writer, "one at a time"
        assert writer.wait(120) == 0 and (folder / "report.html").exists()
        assert not list(folder.glob("*.tmp"))
    finally:
        callback.close(_at(7), None)


def test_a_page_is_made_without_the_slow_imports_of_training() -> None:
    check = (
        "import sys, maws_composer.reporting.comparison; print({'torch', 'composer', 'matplotlib'} & {*sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout.strip() == "set()"


def test_reports_are_not_written_more_often_than_anybody_looks(tmp_path: Path) -> None:
    saved: Any = SimpleNamespace(last_checkpoint_batch=7)
    callback = ReportAtCheckpoints(RunFolder(str(tmp_path), tmp_path), saved)
    callback.batch_checkpoint(_at(7), None)
    assert callback._writer is None


def test_what_a_start_runs_on_is_written_down(tmp_path: Path) -> None:
    decoder = {"width": 32, "depth": 1, "heads": 2}
    recipe = {
        "stage": "mae",
        "model": {"size": "vit_micro", "image_size": 24, "decoder": decoder},
        "data": {"train": {"local": str(tmp_path)}},
        "global_train_batch_size": 16,
        "max_duration": "160sp",
        "save_folder": str(tmp_path),
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run = load_with_ours(tmp_path / "recipe.yaml", world_size=1).run
    folder = RunFolder(str(tmp_path), tmp_path)
    for number in (1, 2):
        note_start(folder, run, Numbers(start=number, world_size=3 - number, wall_hours=0.5 * number))
    starts = read_run(tmp_path).starts
    assert [start["world_size"] for start in starts.values()] == [2, 1]
    assert torch.__version__.startswith(starts[2]["torch"]) and starts[2]["mosaicml"] == composer.__version__
    assert starts[2]["training_flops"] == 6 * mae_macs(SIZES["vit_micro"], 24, 0.75, DecoderSize(32, 1, 2)).total
    assert read_run(tmp_path).flops_per_sample == starts[2]["training_flops"]


def _at(batch: int) -> Any:
    return SimpleNamespace(timestamp=Timestamp(batch=batch))
