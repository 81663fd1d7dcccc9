"""Another optimizer than that of a base leaves the keys of the base's optimizer behind, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from maws_composer.cli import main
from maws_composer.config.load import LoadedRun
from maws_composer.config.plugins import load_with_ours
from maws_composer.config.problems import ConfigError
from tests.processes import ROOT

PLUGIN = """
import torch
from maws_composer.registry import register_dataset, register_optimizer

@register_optimizer("sgd_of_test")
def sgd(groups: list[dict], /, momentum: float = 0.9) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, momentum=momentum)

@register_optimizer("rmsprop_of_test")
def rmsprop(groups: list[dict], /, eps: float = 1e-8, betas: tuple[float, float] = (0.5, 0.5)) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(groups, eps=eps)

for name in ("photos_of_test", "scans_of_test"):
    @register_dataset(name)
    class Pictures:
        def __init__(self, folder: str = "pictures") -> None: ...
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


def test_what_a_base_gives_to_another_optimizer_is_asked_for_where_this_one_takes_it_too(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(folder, "optimizer: {name: rmsprop_of_test}\n")
    (problem,) = caught.value.problems
    assert (problem.path, problem.where) == ("optimizer.betas", f"{folder}/mine.yaml, line 3")
    assert problem.message.startswith("is given to adamw (") and "recipes/mae.yaml, line " in problem.message
    told = load(folder, "optimizer: {name: rmsprop_of_test, betas: [0.8, 0.9]}\n").resolved["optimizer"]
    assert told["betas"] == [0.8, 0.9]


def test_another_dataset_at_the_command_line_does_not_lose_its_folder_silently(folder: Path) -> None:
    dataset = "data: {train: {remote: null, dataset: {name: photos_of_test, folder: /photos}}}\n"
    other = ("data.train.remote=null", "data.train.dataset.name=scans_of_test")
    with pytest.raises(ConfigError) as caught:
        load(folder, dataset, *other)
    (problem,) = caught.value.problems
    assert problem.path == "data.train.dataset.folder"
    assert problem.message == (
        f"is given to photos_of_test ({folder}/mine.yaml, line 3), and not handed on to scans_of_test, which takes it "
        "too: give it again"
    )
    found = load(folder, dataset, *other, "data.train.dataset.folder=/scans").run.data.train.dataset
    assert (found.name, found.folder) == ("scans_of_test", "/scans")


def test_what_is_built_in_is_listed_beside_plugins(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["registry"]) == 0
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    readers = "built in: folder, imagefolder, label, openmoji; see python -m streaming_conversion NAME --help"
    assert listed["reader"].endswith(readers)
    assert listed["importer"].endswith("built in: our runs and exports, timm, Hugging Face, MAE, MAWS")
    assert main(["registry", "reader"]) == 0
    assert readers in capsys.readouterr().out


def test_of_a_dataset_that_is_not_there_nothing_more_is_said() -> None:
    with pytest.raises(ConfigError) as refused:
        load_with_ours(ROOT / "yamls/mae_vitb.yaml", ["data.train.dataset.name=picturs"])
    (problem,) = refused.value.problems
    assert problem.path == "data.train.dataset.name" and problem.message.startswith("unknown dataset 'picturs'")
