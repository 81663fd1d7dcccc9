"""Loggers go on with what an interrupted run began. W&B is played by a module that keeps what it is told."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from maws_composer.config.build import build
from maws_composer.config.plugins import our_code_paths
from maws_composer.registry import load_plugins, lookup

WANDB = """\
told = []

class run:
    dir = entity = project = ""
    get_url = staticmethod(str)

def init(**arguments):
    told.append(dict(arguments))
"""


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What wandb.init was given, call after call."""
    (tmp_path / "wandb.py").write_text(WANDB)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    import wandb

    return wandb.told


def start(save_folder: Path) -> None:
    """As train.py does it, each time."""
    run = SimpleNamespace(run_name="mae-vitl", save_folder=str(save_folder))
    logger = build(lookup("logger", "wandb"), {"project": "maws"}, run)
    logger.init(SimpleNamespace(run_name=run.run_name), None)


def test_wandb_goes_on_with_the_run_of_the_folder_not_of_the_name(tmp_path: Path, wandb: list[dict]) -> None:
    load_plugins(our_code_paths())
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run_id").write_text(f"id-of-{name}\n")
    for name in ("one", "one", "other"):
        start(tmp_path / name)
    assert [told["id"] for told in wandb] == ["id-of-one", "id-of-one", "id-of-other"]
    assert {told["name"] for told in wandb} == {"mae-vitl"} and {told["resume"] for told in wandb} == {"allow"}
