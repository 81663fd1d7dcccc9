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
from tests.callbacks.training import fit, load

EXPORT = {"export_on_checkpoint": {"every": 2}}
SAVING = "save_interval=2ba"


def check_exports(folder: Path, *names: str) -> None:
    """Exactly these, nothing half-written, and each with the tensors of its checkpoint."""
    assert sorted(path.name for path in (folder / "exports").iterdir()) == [*names]
    for name in names:
        tensors = load_file(folder / "exports" / name / "model.safetensors")
        saved = SavedModel(folder / "checkpoints" / name)
        assert {f"mae.encoder.{key}" for key in tensors} == {key for key in saved.shapes if "encoder." in key}
        assert all(torch.equal(tensor, saved.read(f"mae.encoder.{key}")) for key, tensor in tensors.items())


def test_every_second_checkpoint_is_exported_and_the_last(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    fit(whole, EXPORT, 6, SAVING)
    check_exports(whole, "ep0-ba4", "ep0-ba6")

    shutil.copytree(whole / "checkpoints" / "ep0-ba4", cut / "checkpoints" / "ep0-ba4")  # killed before its export
    fit(cut, EXPORT, 6, SAVING, resume_from=str(cut / "checkpoints" / "ep0-ba4"))
    check_exports(cut, "ep0-ba4", "ep0-ba6")


def test_an_export_that_fails_does_not_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "exports").touch()  # where a folder has to be
    assert len(fit(tmp_path, EXPORT, 4, SAVING).steps) == 4
    assert "the checkpoint of batch 4 was not exported: " in caplog.text


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
    with pytest.raises(ConfigError, match="unknown exporter 'tim'; nearest is timm"):
        load(tmp_path, {"export_on_checkpoint": {"to": "tim"}})
    with pytest.raises(ConfigError, match="every"):
        load(tmp_path, {"export_on_checkpoint": {"every": 0}})


MINE = """
from pathlib import Path
from maws_composer.registry import register_exporter
from maws_composer.weights.sources import open_model

@register_exporter("names")
def names(address: str, out: Path, /, *, prefix: str) -> None:
    out.write_text("".join(f"{prefix}{name}\\n" for name in open_model(address).shapes))
"""


def test_an_exporter_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    mine, arguments = f"code_paths=[{tmp_path / 'mine.py'}]", {"to": "names"}
    (problem,) = check_callbacks(load(tmp_path, {"export_on_checkpoint": arguments}, 2, mine).run)
    assert problem.path == "callbacks.export_on_checkpoint.arguments" and problem.message.startswith("prefix: ")
    fit(tmp_path, {"export_on_checkpoint": {**arguments, "arguments": ["prefix=mine."]}}, 2, SAVING, mine)
    assert "mine.encoder.cls_token" in (tmp_path / "exports" / "ep0-ba2").read_text().splitlines()
