"""What the site is made of beside its pages: the log, and the reference, which is made from the schemas themselves."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import docstring_parser
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from maws_composer.config import durations
from maws_composer.config.check import describe_type, signature_of
from maws_composer.config.plugins import our_code_paths
from maws_composer.config.problems import ConfigError
from maws_composer.config.run import Run
from maws_composer.evaluation.settings import Evaluation
from maws_composer.registry import KINDS, load_plugins, lookup, names, refusals

HERE = Path(__file__).parent
_DURATIONS = (
    (durations.Interval, "duration: 1000ba, 1_000_000sp"),
    (durations.Samples, "samples: 1_000_000sp"),
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and the picture that README shows."""
    files.append(File.generated(config, "log.md", content=(HERE / "LOG.md").read_text()))
    files.append(File.generated(config, "reference.md", content=reference()))
    picture = "quickstart-reconstructions.png"
    files.append(File.generated(config, picture, content=(HERE / picture).read_bytes()))
    return files


def reference() -> str:
    """Every key of a training run and of an evaluation, every plugin that comes along or is refused, as Markdown.

    Raises:
        ConfigError: a plugin cannot be imported, or two have one name. The build fails then.
    """
    if problems := load_plugins(our_code_paths()):
        raise ConfigError(problems)
    parts = [_INTRODUCTION, "## Training\n", *_sections(Run, ""), "## Evaluation\n", *_sections(Evaluation, "")]
    for kind in KINDS:
        parts.append(f"## Plugins: {kind}\n")
        parts += [part for name in names(kind) for part in _plugin(kind, name)]
        parts += _refused(kind)
    return "\n".join(parts)


_INTRODUCTION = """# Configuration

Made from the schemas that a YAML is checked against. `train.py CONFIG --print` shows every value of a run, and where it
is from; `maws-composer registry KIND NAME` prints what is below about a plugin, and about yours.
"""


def _sections(schema: type, path: str) -> Iterator[str]:
    """A table of the section's keys, then those of the sections in it."""
    if path:
        yield f"### {path}\n"
    about = docstring_parser.parse(inspect.getdoc(schema) or "")
    yield _prose(about) + "\n"
    hints, manual = get_type_hints(schema, include_extras=True), _manual(schema)
    fields = {field.name: field for field in dataclasses.fields(schema)}
    inner = {name: nested for name in fields if (nested := _dataclass_in(hints[name])) is not None}
    rows = [(name, _type(hints[name]), _default(field), manual.get(name, "")) for name, field in fields.items()]
    yield _table(rows)
    for name, nested in inner.items():
        by_name = ".NAME" if get_origin(hints[name]) is dict else ""
        yield from _sections(nested, f"{path}.{name}{by_name}".lstrip("."))


def _plugin(kind: str, name: str) -> Iterator[str]:
    builder = lookup(kind, name).builder
    yield f"### {kind}: {name}\n"
    if not callable(builder):
        yield f"`{builder}`\n" if kind == "size" else ""
        return
    schema = signature_of(builder)
    hints, manual = get_type_hints(schema, include_extras=True), _manual(builder)
    yield _prose(docstring_parser.parse(inspect.getdoc(builder) or "")) + "\n"
    yield _table(
        [
            (field.name, _type(hints[field.name]), _default(field), manual.get(field.name, ""))
            for field in dataclasses.fields(schema)
        ]
    )


def _refused(kind: str) -> Iterator[str]:
    """Names that people know elsewhere, each with the reason."""
    if refused := refusals(kind):
        yield f"### {kind}: refused by name\n"
        rows = (f"| `{name}` | {reason.replace('|', 'or')} |" for name, reason in sorted(refused.items()))
        yield "\n".join(["| name | because |", "|---|---|", *rows]) + "\n"


def _manual(documented: Any) -> dict[str, str]:
    """What the docstrings of a class, those that it is made of included, say of each argument."""
    said: dict[str, str] = {}
    for each in reversed(documented.__mro__ if inspect.isclass(documented) else [documented]):
        for parameter in docstring_parser.parse(inspect.getdoc(each) or "").params:
            for name in parameter.arg_name.split(", "):
                said[name] = " ".join((parameter.description or "").split())
    return said


def _prose(about: docstring_parser.Docstring) -> str:
    return "\n\n".join(part for part in (about.short_description, about.long_description) if part)


def _dataclass_in(annotation: Any) -> type | None:
    """The section that a key holds, if it holds one."""
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return annotation
    return next((found for part in get_args(annotation) if (found := _dataclass_in(part))), None)


def _type(annotation: Any) -> str:
    for duration, words in _DURATIONS:
        if annotation == duration:
            return words
    if hasattr(annotation, "__metadata__") and get_origin(annotation.__origin__) is not None:
        return _type(annotation.__origin__)
    if annotation == dict[str, Any]:
        return "arguments"
    if get_args(annotation) and type(None) in get_args(annotation):
        return " or ".join([*(_type(part) for part in get_args(annotation) if part is not type(None)), "null"])
    if get_origin(annotation) is dict:
        return f"{_type(get_args(annotation)[0])} → {_type(get_args(annotation)[1])}"
    if get_origin(annotation) is list:
        return f"list of {_type(get_args(annotation)[0])}"
    if get_origin(annotation) is tuple:
        parts = [_type(part) for part in get_args(annotation) if part is not Ellipsis]
        return f"list of {parts[0]}" if Ellipsis in get_args(annotation) else f"[{', '.join(parts)}]"
    if annotation is Any:
        return "anything"
    if _dataclass_in(annotation) is annotation:
        return "section"
    text = describe_type(annotation)
    return {"str": "text", "bool": "true or false"}.get(text, text)


def _default(field: dataclasses.Field) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    value = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False).removesuffix("\n...\n").strip()
    return f"`{text}`" if len(text) <= 60 else "see there"


def _table(rows: list[tuple[str, str, str, str]]) -> str:
    if not rows:
        return "No arguments.\n"
    cells = [(f"`{key}`", *(text.replace("|", "or").replace("<", "&lt;") for text in rest)) for key, *rest in rows]
    lines = ["| key | type | default | |", "|---|---|---|---|", *(f"| {' | '.join(row)} |" for row in cells)]
    return "\n".join(lines) + "\n"
