"""What was written in a way that says nothing here, and what it was most likely meant to say."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from maws_composer.config.check import nearest_key
from maws_composer.config.compose import COMMAND_LINE, Composed, KeyPath
from maws_composer.config.problems import Problem


def told_apart(overrides: Iterable[str]) -> tuple[list[str], list[str]]:
    """Assignments of a command line; and options, of which there should be none, each with the value after it."""
    assignments: list[str] = []
    options: list[str] = []
    takes_value = False
    for text in overrides:
        if text.startswith("-"):
            options.append(text)
        elif takes_value and "=" not in text:
            options[-1] += f" {text}"
        else:
            assignments.append(text)
        takes_value = text.startswith("-") and "=" not in text
    return assignments, options


def option_problems(options: Iterable[str], known: Sequence[KeyPath]) -> Iterator[Problem]:
    """Of `--workers 3`, where `speed.workers=3` is expected.

    Args:
        options: each with its value.
        known: all keys.
    """
    for option in options:
        name, _, value = option.lstrip("-").replace(" ", "=", 1).partition("=")
        path = tuple(name.replace("-", "_").split("."))
        near = path if path in known else nearest_key(path, known)
        meant = f"{'.'.join(near)}={value or '...'}" if near else "key=value, such as data.train.remote=s3://b"
        yield Problem(option, f"is an option, of which there is only --print; write {meant}", COMMAND_LINE)


def left_behind(composed: Composed, path: KeyPath, schema: type, arguments: Mapping[str, Any]) -> Iterator[Problem]:
    """Arguments that files give to another plugin, and that the chosen one takes too: nobody knows if they fit it.

    Args:
        composed: knows the other plugin.
        path: of the section that names the plugin.
        schema: of the section.
        arguments: that it has.
    """
    taken = {field.name for field in dataclasses.fields(schema)}
    for key, (other, where) in composed.left.items():
        if key[:-1] == path and key[-1] in taken - set(arguments):
            chosen = arguments.get("name") or "the default"
            message = f"is given to {other} ({where}), and not handed on to {chosen}, which takes it too: give it again"
            yield Problem(".".join(key), message, composed.where_is((*path, "name")))
