"""Makes objects of the plugins that a run names."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from maws_composer.config.check import Outcome, arguments_of, check, signature_of
from maws_composer.config.load import LoadedRun, load_run
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.registry import Entry, lookup, misfit

OUR_CALLBACKS = Path(__file__).parents[2] / "callbacks"
OURS = (
    "maws_composer.stages",
    "maws_composer.optim.build",
    "maws_composer.optim.schedule",
    "maws_composer.evaluation",
    "maws_composer.reporting.loggers",
)


def load_with_ours(
    path: str | Path, overrides: Iterable[str] = (), world_size: int | None = None, nodes: int = 1
) -> LoadedRun:
    """`load_run` with our own stages and loggers, and with the callbacks beside train.py where there are any.

    Raises:
        ConfigError: with every problem that can be seen at once.
    """
    return load_run(path, overrides, our_code_paths(), world_size, nodes)


def our_code_paths() -> list[Path | str]:
    """What we offer ourselves, and the callbacks beside train.py: found through the same door as a user's."""
    here = Path.cwd()
    callbacks = OUR_CALLBACKS.relative_to(here) if OUR_CALLBACKS.is_relative_to(here) else OUR_CALLBACKS
    return [*OURS, callbacks] if callbacks.is_dir() else [*OURS]


def build(entry: Entry, arguments: Mapping[str, Any] | None, run: Any, *handed: Any) -> Any:
    """Make the object: nested dataclasses from plain arguments, and `run` where the plugin asks for it.

    Args:
        entry: the plugin.
        arguments: of the configuration.
        run: the whole configuration.
        handed: what its positional-only parameters receive.

    Raises:
        ConfigError: naming every argument that is wrong; or what was made is nothing of the plugin's kind.
    """
    outcome: Outcome[Any] = check(signature_of(entry.builder), arguments or {})
    if outcome.value is None:
        raise ConfigError([Problem(".".join(wrong.path), wrong.message) for wrong in outcome.mistakes])
    keywords = arguments_of(outcome.value)
    if "run" in inspect.signature(entry.builder).parameters:
        keywords["run"] = run
    made = entry.builder(*handed, **keywords)
    if reason := misfit(entry.kind, type(made)):
        raise ConfigError(
            [Problem(f"{entry.kind} {entry.name}", f"made an object whose class {reason} ({entry.origin})")]
        )
    return made


def build_named(kind: str, settings: Any, default: str, run: Any, *handed: Any) -> Any:
    """The object of a section such as `run.optimizer`, which names its plugin itself, or else means `default`.

    Raises:
        ConfigError: see `build`.
    """
    entry = lookup(kind, settings.name or default)
    names = [field.name for field in dataclasses.fields(signature_of(entry.builder))]
    return build(entry, {name: getattr(settings, name) for name in names if hasattr(settings, name)}, run, *handed)


def build_all(kind: str, named: Mapping[str, Mapping[str, Any] | None], run: Any) -> list[Any]:
    """The objects of a section such as `run.callbacks`, in its order.

    Raises:
        ConfigError: naming the first that needs a package which is not installed.
    """
    built = []
    for name, arguments in named.items():
        try:
            built.append(build(lookup(kind, name), arguments, run))
        except ImportError as error:
            raise ConfigError([Problem(f"{kind}s.{name}", str(error))]) from error
    return built
