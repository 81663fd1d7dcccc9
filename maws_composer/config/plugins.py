"""A run's configuration, with the plugins that come with this project."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from maws_composer.config.load import LoadedRun, load_run
from maws_composer.config.problems import Problem
from maws_composer.config.run import Run

OUR_CALLBACKS = Path(__file__).parents[2] / "callbacks"
OURS = (
    "maws_composer.stages",
    "maws_composer.optim.algorithms",
    "maws_composer.optim.build",
    "maws_composer.optim.schedule",
    "maws_composer.evaluation",
    "maws_composer.reporting.loggers",
    "maws_composer.weights.export",
)


def load_with_ours(
    path: str | Path,
    overrides: Iterable[str] = (),
    world_size: int | None = None,
    nodes: int = 1,
    also: Callable[[Run], list[Problem]] | None = None,
) -> LoadedRun:
    """`load_run` with our own stages and loggers, and with the callbacks beside train.py where there are any.

    Raises:
        ConfigError: with every problem that can be seen at once.
    """
    return load_run(path, overrides, our_code_paths(), world_size, nodes, also)


def our_code_paths() -> list[Path | str]:
    """What we offer ourselves, and the callbacks beside train.py: found through the same door as a user's."""
    here = Path.cwd()
    callbacks = OUR_CALLBACKS.relative_to(here) if OUR_CALLBACKS.is_relative_to(here) else OUR_CALLBACKS
    return [*OURS, callbacks] if callbacks.is_dir() else [*OURS]
