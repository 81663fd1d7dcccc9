"""A folder to configure runs in, with plugins of our own and no others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from maws_composer import registry
from maws_composer.config.load import LoadedRun, load_run
from maws_composer.config.problems import ConfigError
from maws_composer.optim.adamw import adamw
from maws_composer.optim.schedule import WarmupThenDecay
from tests.config.samples import GOOD, InputWait, Stage, Wandb


@pytest.fixture(autouse=True)
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    for state in ("_entries", "_installed", "_loaded"):
        monkeypatch.setattr(registry, state, {})
    registry.register_stage("mae")(Stage)
    registry.register_callback("input_wait")(InputWait)
    registry.register_logger("wandb")(Wandb)
    registry.register_optimizer("adamw")(adamw)
    registry.register_schedule("warmup_then_decay")(WarmupThenDecay)
    for size in ("vit_b16", "vit_6.5b14"):
        registry.register_size(size)(size)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def write(folder: Path) -> Callable[[str, str], None]:
    """Write a file, given by its path from the working directory."""

    def write_file(path: str, text: str) -> None:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    return write_file


@pytest.fixture
def load(write: Callable[[str, str], None]) -> Callable[..., LoadedRun]:
    """Load run.yaml, given by its text: the good one, with more lines."""

    def load_text(more: str = "", *overrides: str, start: str = GOOD, **options: object) -> LoadedRun:
        write("run.yaml", start + more)
        return load_run("run.yaml", overrides, **options)  # type: ignore[arg-type]

    return load_text


@pytest.fixture
def mistakes(load: Callable[..., LoadedRun]) -> Callable[..., list[tuple[str, str, str]]]:
    """(path, message, where) of everything that is wrong."""

    def problems_of(more: str = "", *overrides: str, **options: object) -> list[tuple[str, str, str]]:
        with pytest.raises(ConfigError) as caught:
            load(more, *overrides, **options)
        return [(problem.path, problem.message, problem.where) for problem in caught.value.problems]

    return problems_of
