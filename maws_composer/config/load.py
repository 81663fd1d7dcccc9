"""From a YAML and a command line to a checked configuration, or to everything that is wrong with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from maws_composer import registry
from maws_composer.config.check import Mistake, Outcome, arguments_of, check, keys_of, nearest_key, signature_of
from maws_composer.config.compose import Composed, KeyPath, compose
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.config.run import Run, check_world_size, contradictions
from maws_composer.config.secrecy import mask_text

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)
class Schema(Generic[Config]):
    """What a YAML is checked against.

    Args:
        config: a dataclass, `Run` for train.py.
        plugins: section -> kind of the plugins that are named in it; the section of a stage holds its arguments.
        harmless: in the place of what is required and wrong, chosen so that nothing else looks wrong because of it.
        contradictions: finds what no single value shows.
    """

    config: type[Config]
    plugins: Mapping[str, str]
    harmless: Mapping[str, Any]
    contradictions: Callable[[Config], list[Problem]]


@dataclasses.dataclass(frozen=True)
class Loaded(Generic[Config]):
    """A run, and what it was made from.

    Args:
        run: checked.
        resolved: the same as plain data, defaults filled in. Holds credentials: show or save it through `show`.
        provenance: dotted key of each written value -> where it was written.
        secrets: texts that must not be shown.
    """

    run: Config
    resolved: dict[str, Any]
    provenance: dict[str, str]
    secrets: frozenset[str]

    def locate(self, problems: Iterable[Problem]) -> list[Problem]:
        """The problems, those that do not say where with the place where their key was written."""
        return [
            problem
            if problem.where
            else dataclasses.replace(problem, where=self.provenance.get(problem.path, "default"))
            for problem in problems
        ]


LoadedRun = Loaded[Run]

_FEW = 8  # keys that are worth being listed


class _Section(NamedTuple):
    """A plugin of the run and the arguments that it is given."""

    path: KeyPath
    schema: type
    arguments: Mapping[str, Any]


def load_run(
    path: str | Path,
    overrides: Iterable[str] = (),
    code_paths: Sequence[str | Path] = (),
    world_size: int | None = None,
    nodes: int = 1,
) -> LoadedRun:
    """Compose, check and complete the configuration of a training run.

    Args:
        path: the YAML.
        overrides: `a.b=value`, later ones win.
        code_paths: looked through for plugins before those that the configuration names.
        world_size: number of GPUs that the batch must be divisible over. None: not checked.
        nodes: number of nodes that they are in.

    Raises:
        ConfigError: with every problem that can be seen at once.
    """
    schema = Schema(Run, _RUN_PLUGINS, _HARMLESS, partial(_run_problems, world_size=world_size, nodes=nodes))
    return load(schema, path, overrides, code_paths)


def load(
    schema: Schema[Config], path: str | Path, overrides: Iterable[str] = (), code_paths: Sequence[str | Path] = ()
) -> Loaded[Config]:
    """`load_run` for any schema.

    Raises:
        ConfigError: with every problem that can be seen at once.
    """
    composed = compose(str(path), overrides)
    data = composed.data
    data.setdefault("run_name", Path(path).stem)
    problems = [*composed.problems, *_load_plugins(code_paths, composed)]
    sections, plugin_problems = _plugin_sections(composed, schema.plugins)

    outcome = check(schema.config, data)
    mistakes = list(outcome.mistakes)
    plain = outcome.plain
    arguments: dict[KeyPath, dict[str, Any]] = {}
    for section in sections:
        part: Outcome[Any] = check(section.schema, section.arguments)
        arguments[section.path] = arguments_of(part.value) if part.value else {}
        mistakes += [dataclasses.replace(wrong, path=section.path + wrong.path) for wrong in part.mistakes]
        _put(plain, section.path, part.plain)
    known = _known_keys(schema.config, sections, data)
    problems += [_as_problem(wrong, composed, known) for wrong in mistakes if not _follows(wrong, composed)]
    problems += plugin_problems
    if config := outcome.value or _without(mistakes, data, schema):
        problems += _contradictions(schema.contradictions(config), mistakes, composed)
    if problems:
        hidden = composed.secrets
        raise ConfigError([dataclasses.replace(one, message=mask_text(one.message, hidden)) for one in problems])

    assert outcome.value is not None
    filled = {
        section: arguments[section,]
        if kind == "stage"
        else {name: arguments[section, name] for name in getattr(outcome.value, section)}
        for section, kind in schema.plugins.items()
    }
    run: Config = dataclasses.replace(outcome.value, **filled)  # type: ignore[type-var]
    provenance = {".".join(key): str(where) for key, where in composed.where.items()}
    return Loaded(run, plain, provenance, frozenset(composed.secrets))


def _load_plugins(code_paths: Sequence[str | Path], composed: Composed) -> Iterator[Problem]:
    named = composed.data.get("code_paths")
    paths = [*code_paths, *(name for name in named if isinstance(name, str))] if isinstance(named, list) else code_paths
    for problem in registry.load_plugins(paths):
        yield dataclasses.replace(problem, where=composed.where_is(("code_paths",)) if named else "")


def _plugin_sections(composed: Composed, plugins: Mapping[str, str]) -> tuple[list[_Section], list[Problem]]:
    """The plugins that the run names, and a problem for each that there is not."""
    data, sections, problems = composed.data, [], []
    for path, kind, name, arguments in _named_plugins(data, plugins):
        key = ("stage",) if kind == "stage" else path
        if not isinstance(arguments, Mapping) and (arguments is not None or kind == "stage"):
            continue  # the check of the whole says so
        try:
            schema = signature_of(registry.lookup(kind, name).builder)
        except ConfigError as error:
            where = composed.where_is(key)
            problems += [Problem(".".join(key), problem.message, where) for problem in error.problems]
        except TypeError as error:
            problems.append(
                Problem(".".join(key), f"the {kind} {name!r} cannot be used: {error}", composed.where_is(key))
            )
        else:
            sections.append(_Section(path, schema, arguments or {}))
    return sections, problems


def _named_plugins(data: Mapping[str, Any], plugins: Mapping[str, str]) -> Iterator[tuple[KeyPath, str, str, Any]]:
    for section, kind in plugins.items():
        named = data.get(section)
        if kind == "stage":
            if isinstance(data.get("stage"), str):
                yield (section,), kind, data["stage"], named
        elif isinstance(named, Mapping):
            for name, arguments in named.items():
                yield (section, name), kind, name, arguments


def _put(plain: dict[str, Any], path: KeyPath, arguments: dict[str, Any]) -> None:
    for part in path[:-1]:
        plain = plain.setdefault(part, {})
    plain[path[-1]] = arguments


def _known_keys(config: type, sections: Iterable[_Section], data: Mapping[str, Any]) -> list[KeyPath]:
    keys = list(keys_of(config, data))
    for section in sections:
        keys += keys_of(section.schema, section.arguments, section.path)
    return keys


def _follows(wrong: Mistake, composed: Composed) -> bool:
    """Whether a mistake is but the consequence of something that could not be read."""
    if wrong.kind == "missing" and composed.incomplete:
        return True
    return any(wrong.path[: len(lost)] == lost or lost[: len(wrong.path)] == wrong.path for lost in composed.lost)


def _as_problem(wrong: Mistake, composed: Composed, known: Sequence[KeyPath]) -> Problem:
    message = wrong.message
    if wrong.kind == "unknown":
        near = nearest_key(wrong.path, known)
        siblings = [key[-1] for key in known if key[:-1] == wrong.path[:-1]]
        if near:
            message += f"; nearest is {'.'.join(near)}"
        elif len(siblings) <= _FEW:
            message += f"; known here are {', '.join(siblings)}" if siblings else "; nothing is expected here"
    return Problem(".".join(wrong.path), message, composed.where_is(wrong.path))


_RUN_PLUGINS = {"model": "stage", "callbacks": "callback", "loggers": "logger"}
_HARMLESS = {
    "stage": "",
    "model": {},
    "data": {"train": {}},
    "global_train_batch_size": 1,
    "max_duration": "1sp",
}


def _without(mistakes: Iterable[Mistake], data: Mapping[str, Any], schema: Schema[Config]) -> Config | None:
    """The run with something harmless where there are mistakes, so that what is wrong with the rest can be said too."""
    kept = {**schema.harmless, **_prune(data, (), {mistake.path for mistake in mistakes})}
    if isinstance(kept["data"], Mapping):
        kept["data"] = {**schema.harmless["data"], **kept["data"]}
    return check(schema.config, kept).value


def _prune(data: Mapping[str, Any], path: KeyPath, wrong: set[KeyPath]) -> dict[str, Any]:
    kept = {}
    for key, value in data.items():
        here = (*path, key)
        if not any(bad[: len(here)] == here for bad in wrong):
            kept[key] = value
        elif here not in wrong and isinstance(value, Mapping):
            kept[key] = _prune(value, here, wrong)
    return kept


def _run_problems(run: Run, world_size: int | None, nodes: int) -> list[Problem]:
    return [*contradictions(run), *(check_world_size(run, world_size, nodes) if world_size else [])]


def _contradictions(problems: Iterable[Problem], mistakes: Iterable[Mistake], composed: Composed) -> Iterator[Problem]:
    """Without those about keys whose values are not known."""
    doubtful = {wrong.path for wrong in mistakes} | set(composed.lost)
    for problem in problems:
        path = tuple(problem.path.split("."))
        if not any(bad[: len(path)] == path or path[: len(bad)] == bad for bad in doubtful):
            yield dataclasses.replace(problem, where=composed.where_is(path))
