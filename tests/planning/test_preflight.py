"""What is not there is told together with mistakes in the configuration, and with --print not looked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from maws_composer.config.command import check_and_work
from maws_composer.config.plugins import load_with_ours
from maws_composer.config.problems import ConfigError
from maws_composer.evaluation import preflight as of_evaluations
from maws_composer.evaluation.settings import load_evaluation
from maws_composer.planning.preflight import on_disk, preflight
from tests.processes import ROOT

RECIPE = str(ROOT / "yamls/mae_vitb.yaml")

BARE = """
from maws_composer.registry import register_stage
from maws_composer.stages.mae import MaeStage

@register_stage("bare")
class Bare(MaeStage):
    def __init__(self, size: str, *, run) -> None:
        super().__init__(size, 24, run=run)
"""


def mistakes(load, *given) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        load(*given)
    return [f"{problem.path}: {problem.message} ({problem.where})" for problem in refused.value.problems]


def test_missing_folders_are_told_with_the_typos_of_other_sections(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    given = [f"data.train.local={tmp_path}/images", f"save_folder={tmp_path}/file/run", "model.mask_ration=0.6"]
    told = mistakes(load_with_ours, RECIPE, given, 3, 1, on_disk)
    assert [each.partition(": ")[0] for each in told] == [
        "model.mask_ration", "global_train_batch_size", "data.train.local", "save_folder"
    ]  # fmt: skip
    assert told[2].endswith("makes shards of images (command line)") and "is a file" in told[3]


def test_of_a_key_that_is_wrong_itself_nothing_more_is_said(tmp_path: Path) -> None:
    given = [f"data.train.local={tmp_path}/images", "save_folder=[1]", "data.eval.local=3"]
    told = mistakes(load_with_ours, RECIPE, given, 1, 1, on_disk)
    assert [each.partition(": ")[0] for each in told] == ["data.eval.local", "save_folder", "data.train.local"]


def test_a_good_configuration_is_left_to_preflight(tmp_path: Path) -> None:
    load_with_ours(RECIPE, [f"data.train.local={tmp_path}/images"], 1, 1, on_disk)


def test_an_evaluation_does_likewise(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    data = {"train": {"local": f"{tmp_path}/train"}, "test": {"local": str(tmp_path)}}
    config = {"weights": "x", "data": data, "evaluations": {"knn": {"k": 0}}, "save_folder": f"{tmp_path}/file"}
    (tmp_path / "eval.yaml").write_text(yaml.safe_dump(config))
    told = mistakes(load_evaluation, tmp_path / "eval.yaml", [], of_evaluations.on_disk)
    assert [each.partition(": ")[0] for each in told] == ["evaluations.knn.k", "data.train.local", "save_folder"]


@pytest.mark.parametrize("printing", [[], ["--print"]])
def test_what_is_printed_needs_no_folders(printing: list[str], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = [RECIPE, f"data.train.local={tmp_path}/images", "sed=1", *printing]
    with pytest.raises(SystemExit) as refused:
        check_and_work(
            arguments, lambda config, given, also: load_with_ours(config, given, also=also), on_disk, print, print
        )
    assert refused.value.code == 2
    told = capsys.readouterr().err
    assert "unknown key; nearest is seed" in told and ("does not exist" in told) == (not printing)


def test_a_stage_that_does_not_say_how_large_images_are_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "bare.py").write_text(BARE)
    online = {"every": "80sp", "test": {"local": "nowhere"}, "train": {"local": "nowhere"}, "evaluations": {"knn": {}}}
    recipe = {
        "stage": "bare",
        "model": {"size": "vit_micro"},
        "data": {"train": {"local": "nowhere"}, "eval": {"local": "nowhere"}},
        "global_train_batch_size": 16,
        "max_duration": "160sp",
        "code_paths": [str(tmp_path / "bare.py")],
        "callbacks": {"online_evaluation": online},
    }
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(ConfigError) as refused:
        preflight(load_with_ours(tmp_path / "bare.yaml"), world_size=1, nodes=1)
    (problem,) = refused.value.problems
    assert problem.path == "stage" and problem.message.startswith("bare takes no image_size, to which its images")
