"""Exports of a run while it goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from maws_composer.checkpoints.weights import SavedModel
from maws_composer.config.problems import ConfigError
from maws_composer.planning.preflight import check_callbacks
from tests.callbacks.training import load
from tests.runs import Runs

SETTINGS = ("callbacks.export_on_checkpoint.every=2", "max_duration=192sp", "save_interval=4ba")


def exported(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {path.name: load_file(path / "model.safetensors") for path in sorted((folder / "exports").iterdir())}


def test_every_second_checkpoint_is_exported_and_the_last(runs: Runs) -> None:
    runs("run", *SETTINGS, processes=2, kill_after=10)
    shutil.rmtree(runs.folder / "run" / "exports", ignore_errors=True)  # as if it had been killed before
    whole = runs("run", *SETTINGS, processes=1)
    assert whole.code == 0, whole.output
    found = exported(whole.folder)
    assert list(found) == ["ep0-ba12", "ep0-ba8"]  # nothing half-written either
    for name, tensors in found.items():
        saved = SavedModel(whole.folder / "checkpoints" / name)
        assert {f"mae.encoder.{key}" for key in tensors} == {key for key in saved.shapes if "encoder." in key}
        assert all(torch.equal(tensor, saved.read(f"mae.encoder.{key}")) for key, tensor in tensors.items())


def test_an_export_that_fails_does_not_end_the_run(runs: Runs) -> None:
    (runs.folder / "run").mkdir()
    (runs.folder / "run" / "exports").touch()  # where a folder has to be
    finished = runs("run", "callbacks.export_on_checkpoint={}", "max_duration=32sp", "save_interval=2ba")
    assert finished.code == 0 and finished.status["state"] == "finished"
    assert "the checkpoint of batch 2 was not exported: " in finished.output


def test_what_cannot_be_exported_is_told_before_training(tmp_path: Path) -> None:
    def problems(arguments: dict, *overrides: str) -> list[str]:
        run = load(tmp_path, {"export_on_checkpoint": arguments}, 6, *overrides).run
        return [f"{problem.path}: {problem.message}" for problem in check_callbacks(run)]

    assert problems({}) == problems({"to": "hf"}) == []
    assert problems({"to": "hf"}, "model.qk_norm=true") == [
        "callbacks.export_on_checkpoint.to: hf has no place for QK-norm; set to=timm"
    ]
    assert problems({"ema": True}) == [
        "callbacks.export_on_checkpoint.ema: there is no moving average; add callbacks.ema.half_life"
    ]
    with pytest.raises(ConfigError, match="every"):
        load(tmp_path, {"export_on_checkpoint": {"every": 0}})
