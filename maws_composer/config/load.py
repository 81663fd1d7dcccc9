"""From a YAML and a command line to a checked configuration, or to everything that is wrong with them."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from maws_composer import registry
from maws_composer.config.check import (
    Mistake,
    Outcome,
    arguments_of,
    check,
    extended,
    keys_of,
    say,
    signature_of,
)
from maws_composer.config.compose import Chosen, Composed, KeyPath, compose
from maws_composer.config.meant import left_behind, option_problems, told_apart
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.config.run import Run, check_world_size, contradictions
from maws_composer.config.secrecy import mask_text
from maws_composer.data.settings import DatasetSettings, TransformSettings
from maws_composer.optim.settings import OptimizerSettings, ScheduleSettings

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)
class Schema(Generic[Config]):
    """What a YAML is checked against.

    Args:
        config: a dataclass, `Run` for train.py.
        plugins: section -> kind of the plugins that are named in it; the section of a stage holds its arguments.
        named: path of a section -> the kind of the one plugin that it names itself, beside that plugin's arguments.
        harmless: in the place of what is required and wrong, chosen so that nothing else looks wrong because of it.
        contradictions: finds what no single value shows.
    """

    config: type[Config]
    plugins: Mapping[str, str]
    harmless: Mapping[str, Any]
    contradictions: Callable[[Config], list[Problem]]
    named: Mapping[KeyPath, Named] = dataclasses.field(default_factory=dict)


class Named(NamedTuple):
    """What a section such as `optimizer: {name: mine, base_lr: 1e-4, ...}` may hold.

    Attributes:
        kind: of the plugin.
        base: dataclass of the keys that the section has with every plugin of the kind; one of them is `name`.
        default: the plugin of a section that names none. None: without the section there is no plugin.
    """

    kind: str
    base: type
    default: str | None = None


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


class _Wanted(NamedTuple):
    """A plugin that the run names: where, and the arguments that it gives. `base` is that of a section with a name."""

    path: KeyPath
    kind: str
    name: str
    arguments: Any
    base: type | None = None

    @property
    def key(self) -> KeyPath:
        """Where the name is written."""
        if self.kind == "stage":
            return ("stage",)
        return self.path if self.base is None else (*self.path, "name")


class _Section(NamedTuple):
    """A plugin of the run that there is, its schema, and the arguments that it is given."""

    path: KeyPath
    schema: type
    arguments: Mapping[str, Any]
    is_named: bool


def load_run(
    path: str | Path,
    overrides: Iterable[str] = (),
    code_paths: Sequence[str | Path] = (),
    world_size: int | None = None,
    nodes: int = 1,
    also: Callable[[Run], list[Problem]] | None = None,
) -> LoadedRun:
    """Compose, check and complete the configuration of a training run.

    Args:
        path: the YAML.
        overrides: `a.b=value`, later ones win.
        code_paths: looked through for plugins before those that the configuration names.
        world_size: number of GPUs that the batch must be divisible over. None: not checked.
        nodes: number of nodes that they are in.
        also: finds more problems, of a run that has some. Where a key is wrong, the run that it sees has something
            harmless; what it says about such a key is left out.

    Raises:
        ConfigError: with every problem that can be seen at once.
    """
    problems_of = partial(_run_problems, world_size=world_size, nodes=nodes)
    schema = Schema(Run, _RUN_PLUGINS, _HARMLESS, problems_of, _RUN_NAMED)
    return load(schema, path, overrides, code_paths, also)


def load(
    schema: Schema[Config],
    path: str | Path,
    overrides: Iterable[str] = (),
    code_paths: Sequence[str | Path] = (),
    also: Callable[[Config], list[Problem]] | None = None,
) -> Loaded[Config]:
    """`load_run` for any schema.

    Raises:
        ConfigError: with every problem that can be seen at once.
    """
    chosen = {
        section: Chosen(frozenset(field.name for field in dataclasses.fields(named.base)), named.default)
        for section, named in schema.named.items()
    }
    assignments, options = told_apart(overrides)
    composed = compose(str(path), assignments, chosen)
    data = composed.data
    data.setdefault("run_name", Path(path).stem)
    problems = [*composed.problems, *_load_plugins(code_paths, composed)]
    wanted = list(_wanted_plugins(data, schema))
    sections, plugin_problems = _plugin_sections(composed, wanted)

    rest = _without_sections(data, [each.path for each in wanted if each.base is not None])
    outcome = check(schema.config, rest)
    mistakes = list(outcome.mistakes)
    plain = outcome.plain
    values: dict[KeyPath, Any] = {}
    for section in sections:
        part: Outcome[Any] = check(section.schema, section.arguments)
        if part.value is not None:
            values[section.path] = part.value if section.is_named else arguments_of(part.value)
        mistakes += [dataclasses.replace(wrong, path=section.path + wrong.path) for wrong in part.mistakes]
        _put(plain, section.path, part.plain)
    known = _known_keys(schema.config, sections, data)
    problems += [_as_problem(wrong, composed, known) for wrong in mistakes if not _follows(wrong, composed)]
    problems += [*plugin_problems, *option_problems(options, known)]
    for section in (each for each in sections if each.is_named):
        problems += left_behind(composed, section.path, section.schema, section.arguments)
    if config := outcome.value or _without(mistakes, rest, schema):
        config = _filled(config, values)
        wrong_plugins = [wrong.path for wrong in plugin_problems]  # they are missing from the configuration
        problems += [
            each
            for each in _contradictions(schema.contradictions(config), mistakes, composed)
            if not any(path.startswith(f"{each.path}.") for path in wrong_plugins)
        ]
        if problems and also is not None:
            problems += _contradictions(also(config), mistakes, composed)
    if problems:
        hidden = composed.secrets
        raise ConfigError([dataclasses.replace(one, message=mask_text(one.message, hidden)) for one in problems])

    assert config is not None
    provenance = {".".join(key): str(where) for key, where in composed.where.items()}
    return Loaded(config, plain, provenance, frozenset(composed.secrets))


def _filled(config: Any, values: Mapping[KeyPath, Any]) -> Any:
    """The configuration with the checked arguments of its plugins."""
    for path, value in values.items():
        config = _replaced(config, path, value)
    return config


def _replaced(config: Any, path: KeyPath, value: Any) -> Any:
    if not path:
        return value
    first, *rest = path
    if isinstance(config, Mapping):
        return {**config, first: _replaced(config.get(first), tuple(rest), value)}
    return dataclasses.replace(config, **{first: _replaced(getattr(config, first), tuple(rest), value)})


def _without_sections(data: Mapping[str, Any], paths: Iterable[KeyPath]) -> Mapping[str, Any]:
    for path in paths:
        data = _without_section(data, path)
    return data


def _without_section(data: Mapping[str, Any], path: KeyPath) -> Mapping[str, Any]:
    first, *rest = path
    if not rest:
        return {key: value for key, value in data.items() if key != first}
    return {**data, first: _without_section(data[first], tuple(rest))} if first in data else data


def _load_plugins(code_paths: Sequence[str | Path], composed: Composed) -> Iterator[Problem]:
    named = composed.data.get("code_paths")
    paths = [*code_paths, *(name for name in named if isinstance(name, str))] if isinstance(named, list) else code_paths
    for problem in registry.load_plugins(paths):
        yield dataclasses.replace(problem, where=composed.where_is(("code_paths",)) if named else "")


def _plugin_sections(composed: Composed, wanted: Iterable[_Wanted]) -> tuple[list[_Section], list[Problem]]:
    """The plugins that the run names, and a problem for each that there is not."""
    sections: list[_Section] = []
    problems: list[Problem] = []
    for plugin in wanted:
        arguments, key = plugin.arguments, plugin.key
        if not isinstance(arguments, Mapping) and (arguments is not None or plugin.kind == "stage"):
            continue  # the check of the whole says so
        try:
            schema = _schema_of(plugin)
        except ConfigError as error:
            where = composed.where_is(key)
            problems += [Problem(".".join(key), problem.message, where) for problem in error.problems]
        except TypeError as error:
            message = f"the {plugin.kind} {plugin.name!r} cannot be used: {error}"
            problems.append(Problem(".".join(key), message, composed.where_is(key)))
        else:
            sections.append(_Section(plugin.path, schema, arguments or {}, plugin.base is not None))
    return sections, problems


def _schema_of(plugin: _Wanted) -> type:
    builder = registry.lookup(plugin.kind, plugin.name).builder
    if inspect.isclass(builder) and (reason := registry.misfit(plugin.kind, builder)):
        raise TypeError(reason)
    return signature_of(builder) if plugin.base is None else extended(plugin.base, builder)


def _wanted_plugins(data: Mapping[str, Any], schema: Schema[Any]) -> Iterator[_Wanted]:
    for section, kind in schema.plugins.items():
        several = data.get(section)
        if kind == "stage":
            if isinstance(data.get("stage"), str):
                yield _Wanted((section,), kind, data["stage"], several)
        elif isinstance(several, Mapping):
            for name, arguments in several.items():
                yield _Wanted((section, name), kind, name, arguments)
    for path, named in schema.named.items():
        arguments = _section_at(data, path)
        if arguments is None and named.default is not None:
            arguments = {}
        name = (arguments.get("name") or named.default) if isinstance(arguments, Mapping) else None
        if isinstance(name, str):
            yield _Wanted(path, named.kind, name, arguments, named.base)


def _section_at(data: Any, path: KeyPath) -> Any:
    for part in path:
        data = data.get(part) if isinstance(data, Mapping) else None
    return data


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
    return Problem(".".join(wrong.path), say(wrong, known), composed.where_is(wrong.path))


_RUN_PLUGINS = {"model": "stage", "callbacks": "callback", "loggers": "logger", "algorithms": "algorithm"}
_RUN_NAMED = {
    ("optimizer",): Named("optimizer", OptimizerSettings, "adamw"),
    ("schedule",): Named("schedule", ScheduleSettings, "warmup_then_decay"),
    ("data", "train", "transform"): Named("transform", TransformSettings),
    ("data", "train", "dataset"): Named("dataset", DatasetSettings),
    ("data", "eval", "dataset"): Named("dataset", DatasetSettings),
}
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
