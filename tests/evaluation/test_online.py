"""Evaluations inside of training."""

from __future__ import annotations

from pathlib import Path

import pytest

from maws_composer.config.plugins import load_with_ours
from maws_composer.config.problems import ConfigError
from tests.evaluation.labelled import write_labelled
from tests.runs import Runs


def test_evaluations_while_training_change_nothing_in_it(runs: Runs, tmp_path: Path) -> None:
    write_labelled(tmp_path / "train", 60)
    write_labelled(tmp_path / "test", 21, seed=1)
    section = "callbacks.online_evaluation"
    online = (
        f"{section}.every=80sp", f"{section}.feature=mean_patch_token", f"{section}.evaluations.knn.k=5",
        f"{section}.train.local={tmp_path / 'train'}", f"{section}.test.local={tmp_path / 'test'}",
        "speed.device_eval_batch_size=16",
    )  # fmt: skip
    alone, evaluated = runs("alone", "max_duration=256sp"), runs("evaluated", "max_duration=256sp", *online)
    assert evaluated.code == 0, evaluated.output
    assert evaluated.losses == alone.losses and len(alone.losses) == 16
    figures = {step["batch"]: step["eval/knn/top1"] for step in evaluated.steps if "eval/knn/top1" in step}
    assert list(figures) == [5, 10, 15] and all(figure > 0.9 for figure in figures.values())
    with pytest.raises(ConfigError) as refused:
        load_with_ours(runs.recipe, [*online, f"{section}.evaluations.knnn=null"])
    (problem,) = refused.value.problems
    assert problem.path == f"{section}.evaluations"
    assert problem.message.startswith("unknown evaluation 'knnn'; nearest is knn; looked in maws_composer")
