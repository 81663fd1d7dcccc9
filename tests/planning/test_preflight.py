"""What is asked of a stage before processes are joined."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from maws_composer.config.plugins import load_with_ours
from maws_composer.config.problems import ConfigError
from maws_composer.planning.preflight import preflight

BARE = """
from maws_composer.registry import register_stage
from maws_composer.stages.mae import MaeStage

@register_stage("bare")
class Bare(MaeStage):
    def __init__(self, size: str, *, run) -> None:
        super().__init__(size, 24, run=run)
"""


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
