"""Evaluations with text while a LiT run is trained, and of what it saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from maws_composer.config.plugins import load_with_ours
from maws_composer.config.problems import ConfigError
from maws_composer.planning.preflight import preflight
from tests.evaluation.lit import NAMES, write_captioned
from tests.evaluation.test_evaluate import evaluate
from tests.runs import Runs
from tests.test_lit_training import lit  # noqa: F401

IMAGES = 37


@pytest.mark.slow
def test_figures_while_training_are_those_of_the_checkpoint(lit: Runs, tmp_path: Path) -> None:  # noqa: F811
    write_captioned(tmp_path / "test", IMAGES)
    evaluations = {
        "zero_shot": {"languages": list(NAMES), "class_names": str(tmp_path / "test" / "names.yaml")},
        "retrieval": {"languages": ["ja"]},
    }
    online = {"every": "128sp", "test": {"local": str(tmp_path / "test")}, "evaluations": evaluations}
    recipe = yaml.safe_load(lit.recipe.read_text())
    recipe |= {"max_duration": "256sp", "callbacks": {"online_evaluation": online}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    trained = lit("online", config=tmp_path / "recipe.yaml", processes=2)
    assert trained.code == 0, trained.output
    logged = {step["batch"]: step for step in trained.steps if "eval/zero_shot/en/top1" in step}
    assert list(logged) == [8, 16]
    assert (trained.folder / "pictures" / "zero_shot-ba16.png").exists()
    evaluation = {
        "weights": str(trained.folder),
        "data": {"test": online["test"]},
        "evaluations": evaluations,
        "speed": {"device_eval_batch_size": 16, "workers": 0, "scratch_folder": str(tmp_path / "scratch")},
    }
    (tmp_path / "eval.yaml").write_text(yaml.safe_dump(evaluation))
    finished = evaluate(tmp_path, f"save_folder={tmp_path}/out")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    found = json.loads((tmp_path / "out" / "results.json").read_text())["evaluations"]
    for name in evaluations:
        for figure, value in found[name]["figures"].items():
            assert logged[16][f"eval/{name}/{figure}"] == pytest.approx(value, abs=1.01 / IMAGES)


def test_what_texts_lack_is_told_before_training(lit: Runs, tmp_path: Path) -> None:  # noqa: F811
    write_captioned(tmp_path / "test", IMAGES)
    section = "callbacks.online_evaluation"
    online = (f"{section}.every=128sp", f"{section}.test.local={tmp_path}/test")

    def problems_of(*overrides: str) -> list[str]:
        with pytest.raises(ConfigError) as refused:
            preflight(load_with_ours(lit.recipe, [*online, *overrides], 1), world_size=1, nodes=1)
        return [f"{problem.path}: {problem.message}" for problem in refused.value.problems]

    assert problems_of(f"{section}.evaluations.retrieval.languages=[ko]") == [
        f"{section}.evaluations.retrieval.languages: there are no captions in 'ko'; data.test has captions in ja"
    ]
    embedded = problems_of(f"{section}.evaluations.retrieval.languages=[ja]", "model.image_embeddings=true")
    assert embedded[-1] == f"{section}: this stage reads image embeddings and runs no encoder; remove it"
