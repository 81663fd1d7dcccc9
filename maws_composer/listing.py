"""What can be named in a YAML, for a reader: arguments with types and defaults, docstring, where it is from."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any, get_type_hints

from maws_composer.config.check import describe_type, signature_of
from maws_composer.config.problems import ConfigError
from maws_composer.registry import lookup, names, refusals


def describe(kind: str, name: str) -> str:
    """A plugin for a reader: its arguments with types and defaults, its docstring, where it is from.

    Raises:
        ConfigError: if there is none of that name.
    """
    entry = lookup(kind, name)
    lines = [f"{kind} {name}  ({entry.origin})"]
    if callable(entry.builder):
        lines += ["", *_describe_arguments(signature_of(entry.builder))]
        manual = inspect.getdoc(entry.builder)
        lines += ["", *(f"  {line}".rstrip() for line in manual.splitlines())] if manual else []
    else:
        lines += ["", f"  {entry.builder}"]
    return "\n".join(lines)


def built_in(kind: str) -> str:
    """What there is of a kind beside plugins, in one sentence; of most kinds, nothing."""
    if kind == "reader":
        from streaming_conversion.readers import readers

        return f"built in: {', '.join(readers())}; see python -m streaming_conversion NAME --help"
    return "built in: our runs and exports, timm, Hugging Face, MAE, MAWS" if kind == "importer" else ""


def describe_all(kind: str) -> Iterator[str]:
    """All plugins of a kind; of one that cannot be used, why; then the names that are refused, and why."""
    for name in names(kind):
        try:
            yield describe(kind, name)
        except ConfigError as error:
            yield f"{kind} {name}\n\n  {error.problems[0].message}"
        except TypeError as error:
            yield f"{kind} {name}  ({lookup(kind, name).origin})\n\n  cannot be used: {error}"
    if told := built_in(kind):
        yield told
    if refused := refusals(kind):
        yield "\n".join(f"{kind} {name}  refused: {reason}" for name, reason in sorted(refused.items()))


def _describe_arguments(schema: Any) -> Iterator[str]:
    hints = get_type_hints(schema, include_extras=True)
    for field in dataclasses.fields(schema):
        default = "required" if field.default_factory is dataclasses.MISSING else f"= {field.default_factory()!r}"
        yield f"  {field.name}: {describe_type(hints[field.name])}  {default}"
