"""Makes objects of plugins, from arguments that are checked."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from maws_composer.config.check import Outcome, arguments_of, check, keys_of, say, signature_of
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.registry import Entry, lookup, misfit


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
    checked, mistakes = _checked(entry, arguments)
    if checked is None:
        raise ConfigError(mistakes)
    keywords = arguments_of(checked)
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


def build_told(kind: str, name: str, assignments: Sequence[str], *handed: Any) -> Any:
    """What a plugin makes of arguments that a command line gives as key=value.

    Raises:
        ConfigError: see `lookup` and `build`.
    """
    return build(lookup(kind, name), _told(assignments), None, *handed)


def problems_of_told(kind: str, name: str, assignments: Sequence[str]) -> list[Problem]:
    """What `build_told` would say of these arguments, without making anything."""
    try:
        arguments = _told(assignments)
    except ConfigError as error:
        return error.problems
    return _checked(lookup(kind, name), arguments)[1]


def _told(assignments: Sequence[str]) -> dict[str, Any]:
    if wrong := [text for text in assignments if "=" not in text]:
        raise ConfigError([Problem(f"--set {text}", "expected key=value") for text in wrong])
    arguments: Any = OmegaConf.to_container(OmegaConf.from_dotlist(list(assignments)))
    return arguments


def _checked(entry: Entry, arguments: Mapping[str, Any] | None) -> tuple[Any, list[Problem]]:
    """The arguments in the plugin's schema, or None and what is wrong with them."""
    schema = signature_of(entry.builder)
    outcome: Outcome[Any] = check(schema, arguments or {})
    known = list(keys_of(schema, arguments))
    return outcome.value, [Problem(".".join(wrong.path), say(wrong, known)) for wrong in outcome.mistakes]
