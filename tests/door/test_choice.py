"""Another optimizer than that of a base leaves the keys of the base's optimizer behind, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from maws_composer.config.load import LoadedRun
from maws_composer.config.plugins import load_with_ours
from maws_composer.config.problems import ConfigError
from tests.processes import ROOT

PLUGIN = """
import torch
from maws_composer.registry import register_optimizer

@register_optimizer("sgd_of_test")
def sgd(groups: list[dict], /, momentum: float = 0.9) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, momentum=momentum)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With one file for all tests: two files that register one name are a mistake."""
    folder = tmp_path_factory.mktemp("choice")
    (folder / "sgd.py").write_text(PLUGIN)
    return folder


def load(folder: Path, text: str, *overrides: str) -> LoadedRun:
    (folder / "mine.yaml").write_text(f"base: {ROOT}/yamls/mae_vitb.yaml\ncode_paths: [{folder}/sgd.py]\n{text}")
    return load_with_ours(folder / "mine.yaml", ["data.train.remote=s3://b/x", *overrides])


@pytest.mark.parametrize(
    ("text", "overrides"),
    [
        ("optimizer: {name: sgd_of_test, momentum: 0.5}\n", []),
        ("", ["optimizer.name=sgd_of_test", "optimizer.momentum=0.5"]),
        ("", ["optimizer.momentum=0.5", "optimizer.name=sgd_of_test"]),
    ],
)
def test_what_is_of_every_optimizer_stays_and_betas_go(folder: Path, text: str, overrides: list[str]) -> None:
    optimizer = load(folder, text, *overrides).resolved["optimizer"]
    assert optimizer == {"name": "sgd_of_test", "base_lr": 1.5e-4, "weight_decay": 0.05, "momentum": 0.5}


@pytest.mark.parametrize("name", ["adamw", "null"])
def test_the_same_optimizer_by_its_name_keeps_all(folder: Path, name: str) -> None:
    with_name = load(folder, f"optimizer: {{name: {name}}}\n").resolved["optimizer"]
    assert with_name["betas"] == load(folder, "").resolved["optimizer"]["betas"] == [0.9, 0.95]


def test_a_key_of_another_optimizer_that_is_given_at_the_command_line_is_told(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(folder, "", "optimizer.betas=[0.9, 0.999]", "optimizer.name=sgd_of_test")
    assert [problem.path for problem in caught.value.problems] == ["optimizer.betas"]


def test_of_a_dataset_that_is_not_there_nothing_more_is_said() -> None:
    with pytest.raises(ConfigError) as refused:
        load_with_ours(ROOT / "yamls/mae_vitb.yaml", ["data.train.dataset.name=picturs"])
    (problem,) = refused.value.problems
    assert problem.path == "data.train.dataset.name" and problem.message.startswith("unknown dataset 'picturs'")
