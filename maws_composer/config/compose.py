"""Composes a configuration from `base:` files, the file and the command line; each value knows where it came from."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import GrammarParseError, InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException

from maws_composer.config.problems import Problem, nearest_path, not_there
from maws_composer.config.secrecy import secret_variables

KeyPath = tuple[str, ...]

COMMAND_LINE = "command line"
_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map", "timestamp")}
_MERGE = "tag:yaml.org,2002:merge"
_NULL = "tag:yaml.org,2002:null"


class Where(NamedTuple):
    """A line of a file, or the command line."""

    file: str
    line: int | None = None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}, line {self.line}"


class Left(NamedTuple):
    """Whose a key was that another choice has left behind, and where it was written."""

    name: str
    where: str


@dataclass
class Composed:
    """What files and command line say together.

    Args:
        file: the YAML that was asked for.
        data: plain values, interpolations resolved.
        where: path of a key, or of a list's entry -> where its value was written.
        problems: what could not be read or resolved.
        lost: paths whose value is not known because of a problem.
        incomplete: whole files or overrides are not known.
        secrets: values of environment variables that are named like credentials.
        left: path of a key that files give to another plugin than the one that was chosen in the end.
    """

    file: str
    data: dict[str, Any] = field(default_factory=dict)
    where: dict[KeyPath, Where] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    lost: list[KeyPath] = field(default_factory=list)
    incomplete: bool = False
    secrets: set[str] = field(default_factory=set)
    left: dict[KeyPath, Left] = field(default_factory=dict)

    def where_is(self, path: KeyPath) -> str:
        """Where the value at `path` was written, or the section that it is missing from."""
        for depth in range(len(path), 0, -1):
            if path[:depth] in self.where:
                return str(self.where[path[:depth]])
        return self.file

    def add_problem(self, path: KeyPath, message: str) -> None:
        """Note that the value at `path` is not known, and why."""
        self.problems.append(Problem(".".join(path), message, self.where_is(path)))
        self.lost.append(path)


class Chosen(NamedTuple):
    """A section whose `name` says whose its keys are.

    Attributes:
        shared: keys that stay when another name is given.
        default: the name that it has without one.
    """

    shared: frozenset[str]
    default: str | None


def compose(file: str, overrides: Iterable[str] = (), chosen: Mapping[KeyPath, Chosen] | None = None) -> Composed:
    """Read `file` with everything that it is based on, apply `key=value` overrides, resolve ${...}.

    Args:
        file: a YAML.
        overrides: of the command line.
        chosen: path of a section -> what stays of its bases when a file, or the command line, gives it another name.
    """
    composer = _Composer(Composed(file), chosen or {})
    composer.add_file(file, named_by=Where(COMMAND_LINE), chain=())
    for override in overrides:
        composer.add_override(override)
    return composer.finish()


class _Composer:
    def __init__(self, composed: Composed, chosen: Mapping[KeyPath, Chosen]) -> None:
        self.composed = composed
        self.chosen = chosen
        self.config = OmegaConf.create({})

    def add_file(self, file: str, named_by: Where, chain: tuple[str, ...]) -> None:
        """Merge a file over what is there, its bases first."""
        if any(os.path.samefile(file, above) for above in chain if os.path.exists(file)):
            self._fail(Problem("base", f"{' -> '.join([*chain, file])} goes round in a circle", str(named_by)))
            return
        node = self._read(file, named_by)
        if node is None:
            return
        bases = [(key, value) for key, value in node.value if key.value == "base"]
        node.value = [(key, value) for key, value in node.value if key.value != "base"]
        for _, value in bases:
            for name, where in self._base_names(value, file):
                base = _find_base(name, file)
                if base is None:
                    self._fail(Problem("base", _missing_file(name, file), str(where)))
                else:
                    self.add_file(base, where, (*chain, file))
        self._merge(node, file)

    def add_override(self, override: str) -> None:
        """Merge one `a.b=value` over what is there."""
        key, equals, text = override.partition("=")
        if not equals or not re.fullmatch(r"[^\s.\[\]{}$-][^\s.\[\]{}$]*(\.[^\s.\[\]{}$]+)*", key):
            self._fail(
                Problem(override, "is not of the form key=value, such as data.train.remote=s3://b", COMMAND_LINE)
            )
            return
        if key == "base":
            self._fail(Problem("base", "can be given in files only", COMMAND_LINE))
            return
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            self._fail(Problem(key, f"{text!r} is not YAML: {_what(error)}", COMMAND_LINE))
            return
        value = node or yaml.ScalarNode(_NULL, "null")
        *sections, name = key.split(".")
        layer = yaml.MappingNode("tag:yaml.org,2002:map", [(_text_node(name), value)])
        for section in reversed(sections):
            layer = yaml.MappingNode("tag:yaml.org,2002:map", [(_text_node(section), layer)])
        self._merge(layer, COMMAND_LINE)

    def finish(self) -> Composed:
        """Resolve interpolations, each on its own, so that one that fails takes no other along."""
        raw = OmegaConf.to_container(self.config, resolve=False)
        self.composed.secrets = {os.environ[name] for name in secret_variables(raw) if os.environ.get(name)}
        self.composed.data = dict(self._resolve_mapping(self.config, ()))
        self.composed.problems = list(dict.fromkeys(self.composed.problems))
        return self.composed

    def _fail(self, problem: Problem) -> None:
        self.composed.problems.append(problem)
        self.composed.incomplete = True

    def _read(self, file: str, named_by: Where) -> yaml.MappingNode | None:
        try:
            node = yaml.compose(Path(file).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        except FileNotFoundError:
            self._fail(Problem(file, not_there(file), str(named_by)))
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
            self._fail(Problem(file, f"cannot be read: {reason}", str(named_by)))
        except yaml.YAMLError as error:
            self._fail(Problem(file, f"is not YAML: {_what(error)}", str(Where(file, _line(error)))))
        else:
            if isinstance(node, yaml.MappingNode):
                return node
            if node is not None:
                self._fail(Problem(file, "holds no keys and values", str(Where(file, node.start_mark.line + 1))))
            else:
                return yaml.MappingNode("tag:yaml.org,2002:map", [])
        return None

    def _base_names(self, node: yaml.Node, file: str) -> Iterator[tuple[str, Where]]:
        for entry in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            where = Where(file, entry.start_mark.line + 1)
            if isinstance(entry, yaml.ScalarNode) and entry.tag == "tag:yaml.org,2002:str":
                yield entry.value, where
            else:
                self._fail(Problem("base", "expected a path or a list of paths", str(where)))

    def _merge(self, node: yaml.MappingNode, file: str) -> None:
        self._record(node, (), file)
        try:
            # OmegaConf's own loader makes the values: 1e-4 is a number in it, which it is not in YAML 1.1.
            layer = OmegaConf.create(yaml.serialize(node, allow_unicode=True))
            self.config.merge_with(layer)
        except (OmegaConfBaseException, yaml.YAMLError) as error:
            self._fail(Problem(file, f"cannot be merged: {str(error).splitlines()[0]}", file))

    def _record(self, node: yaml.Node, path: KeyPath, file: str) -> None:
        """Note where each key was written; take out of the tree what is twice there, or no plain value."""
        if isinstance(node, yaml.MappingNode):
            if path and not node.value:
                self._empty(path)
            self._record_mapping(node, path, file)
            return
        self._forget_below(path)
        if isinstance(node, yaml.SequenceNode):
            for index, entry in enumerate(node.value):
                self.composed.where[(*path, str(index))] = _where(entry, file)
                self._record(entry, (*path, str(index)), file)
        elif node.tag not in _TAGS:
            self.composed.add_problem(path, f"the tag {node.tag.replace('tag:yaml.org,2002:', '!!')} is not allowed")
            node.tag, node.value = _NULL, "null"
        elif "${" in node.value:
            try:
                OmegaConf.create({"value": node.value})
            except GrammarParseError as error:
                self.composed.add_problem(path, f"{node.value!r} is no interpolation: {str(error).splitlines()[0]}")
                node.tag, node.value = _NULL, "null"

    def _forget_below(self, path: KeyPath) -> None:
        for below in [known for known in self.composed.where if known[: len(path)] == path and known != path]:
            del self.composed.where[below]

    def _empty(self, path: KeyPath) -> None:
        """`loggers: {}` takes out what was there; merged, it would change nothing."""
        self._forget_below(path)
        section = OmegaConf.select(self.config, ".".join(path), default=None)
        if isinstance(section, DictConfig):
            section.clear()

    def _forget_other_choice(self, node: yaml.MappingNode, path: KeyPath) -> None:
        """Take out what files that came before have for another name."""
        section = OmegaConf.select(self.config, ".".join(path), default=None)
        shared, default = self.chosen[path]
        names = [default if value.tag == _NULL else value.value for key, value in node.value if key.value == "name"]
        if not names or not isinstance(section, DictConfig) or (section.get("name") or default) == names[0]:
            return
        name = str(section.get("name") or default)
        for key in set(section) - shared:
            here = (*path, str(key))
            if (where := self.composed.where_is(here)) != COMMAND_LINE:
                self.composed.left[here] = Left(name, where)
                self._forget_below(here)
                self.composed.where.pop(here, None)
                del section[key]

    def _record_mapping(self, node: yaml.MappingNode, path: KeyPath, file: str) -> None:
        if path in self.chosen:
            self._forget_other_choice(node, path)
        lines: dict[str, int] = {}
        kept = []
        for key, value in node.value:
            where = _where(key, file)
            if key.tag == _MERGE:
                for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    self._record(merged, path, file)
            elif not isinstance(key, yaml.ScalarNode):
                self._fail(Problem(".".join(path) or file, "a key is not plain text", str(where)))
                continue
            else:
                here = (*path, key.value)
                if key.value in lines:
                    message = f"is there twice; first in line {lines[key.value]}"
                    self.composed.problems.append(Problem(".".join(here), message, str(where)))
                    continue
                self.composed.where[here] = where
                lines[key.value] = where.line or 0
                self._record(value, here, file)
            kept.append((key, value))
        node.value = kept

    def _resolve_mapping(self, config: DictConfig, path: KeyPath) -> Iterator[tuple[str, Any]]:
        for key in config:
            here = (*path, str(key))
            resolved = self._resolve(config, key, here)
            if here not in self.composed.lost:
                yield str(key), resolved

    def _resolve(self, config: DictConfig | ListConfig, key: Any, path: KeyPath) -> Any:
        try:
            value = config[key]
        except MissingMandatoryValue:
            self.composed.add_problem(path, "missing; required")
        except InterpolationKeyError as error:
            self.composed.add_problem(path, _no_such_key(error))
        except (OmegaConfBaseException, RecursionError) as error:
            self.composed.add_problem(path, _unresolved(error))
        else:
            if isinstance(value, DictConfig):
                return dict(self._resolve_mapping(value, path))
            if isinstance(value, ListConfig):
                return [self._resolve(value, index, (*path, str(index))) for index in range(len(value))]
            if isinstance(value, float) and not math.isfinite(value):
                self.composed.add_problem(path, f"{value} is not finite")
            return value
        return None


def _where(node: yaml.Node, file: str) -> Where:
    return Where(file) if file == COMMAND_LINE else Where(file, node.start_mark.line + 1)


def _text_node(text: str) -> yaml.ScalarNode:
    return yaml.ScalarNode("tag:yaml.org,2002:str", text)


def _find_base(name: str, file: str) -> str | None:
    """Beside the file that names it, else from the working directory."""
    beside = os.path.normpath(os.path.join(os.path.dirname(file), os.path.expanduser(name)))
    return next((path for path in (beside, os.path.expanduser(name)) if os.path.isfile(path)), None)


def _missing_file(name: str, file: str) -> str:
    folder = os.path.dirname(file)
    near = nearest_path(Path(folder, name))
    return f"{name} does not exist" + (f"; nearest is {os.path.relpath(near, folder or '.')}" if near else "")


def _what(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        return ", ".join(part for part in (error.context, error.problem) if part)
    return str(error).splitlines()[0]


def _line(error: yaml.YAMLError) -> int | None:
    mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
    return mark.line + 1 if mark else None


def _no_such_key(error: Exception) -> str:
    name = re.search(r"'([^']+)' not found", str(error))
    return f"${{{name[1]}}} is not a key" if name else str(error).splitlines()[0]


def _unresolved(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "refers to itself"
    variable = re.search(r"Environment variable '([^']+)' not found", str(error))
    return f"the environment variable {variable[1]} is not set" if variable else str(error).splitlines()[0]


def lookup_path(data: Mapping[str, Any], path: Sequence[str]) -> Any:
    """The value at a path, None where there is none."""
    value: Any = data
    for part in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value
