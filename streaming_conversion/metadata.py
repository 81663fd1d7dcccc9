"""metadata.jsonl: what is known of each image of a folder."""

from __future__ import annotations

import difflib
import json
import sys
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from streaming_conversion.problems import ConversionError, counted

KEYS = ("file_name", "id", "hashtags", "caption")


@dataclass(frozen=True, slots=True)
class Line:
    """What one line says; "" and () for what it does not say."""

    number: int
    id: str
    hashtags: tuple[str, ...]
    caption: str


@dataclass
class Metadata:
    """A whole file.

    Args:
        path: of the file.
        lines: image -> its line, for lines without a problem.
        named: images that some line names, with or without a problem.
        has_hashtags, has_caption: whether any line has it.
    """

    path: Path
    lines: dict[str, Line] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    has_hashtags: bool = False
    has_caption: bool = False


def read_metadata(path: Path, images: Container[str]) -> tuple[Metadata, list[str]]:
    """The file's content, and its problems, each with the number of its line.

    Keys that are not ours are left out and named on stderr.

    Args:
        path: of the file.
        images: the names that `file_name` may take.

    Raises:
        ConversionError: the file cannot be read.
    """
    metadata, problems = Metadata(path), []
    foreign: Counter[str] = Counter()
    try:
        with path.open("rb") as file:
            for number, text in enumerate(file, 1):
                if not text.strip():
                    continue
                try:
                    content = _parse(text)
                    foreign.update(content.keys() - set(KEYS))
                    _take(content, number, metadata, images)
                except _Mistake as mistake:
                    problems.append(f"{path}, line {number}: {mistake}")
    except OSError as error:
        raise ConversionError(f"{path} cannot be read: {error.strerror}") from error
    for key, lines in sorted(foreign.items()):
        near = difflib.get_close_matches(key, KEYS, 1)
        hint = f"; nearest is {near[0]}" if near else ""
        print(f'{path}: key "{key}" ignored ({counted(lines, "line")}{hint})', file=sys.stderr)
    return metadata, problems


class _Mistake(Exception):
    """Of one line."""


def _parse(text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text.decode("utf-8-sig").strip())
    except UnicodeDecodeError as error:
        raise _Mistake("not UTF-8") from error
    except json.JSONDecodeError as error:
        raise _Mistake(f"bad JSON: {error.msg} (column {error.colno})") from error
    if not isinstance(content, dict):
        raise _Mistake(f"not a JSON object: {content!r:.60}")
    return content


def _take(content: dict[str, Any], number: int, metadata: Metadata, images: Container[str]) -> None:
    name = content.get("file_name")
    if not isinstance(name, str):
        raise _Mistake("file_name is missing" if name is None else f"file_name is not a string: {name!r:.60}")
    if name not in images:
        raise _Mistake(f'file_name "{name}" is not an image of the folder')
    if name in metadata.lines:
        raise _Mistake(f'file_name "{name}" is on line {metadata.lines[name].number} already')
    metadata.named.add(name)
    hashtags, caption = _hashtags(content.get("hashtags")), _text(content, "caption")
    metadata.lines[name] = Line(number, _text(content, "id"), hashtags, caption)
    metadata.has_hashtags |= content.get("hashtags") is not None
    metadata.has_caption |= content.get("caption") is not None


def _text(content: dict[str, Any], key: str) -> str:
    value = content.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or (key == "id" and not value):
        raise _Mistake(f"{key} is not a {'string' if value != '' else 'string with something in it'}: {value!r:.60}")
    return _encodable(value, key)


def _hashtags(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(tag, str) and tag for tag in value):
        raise _Mistake(f"hashtags is not a list of strings: {value!r:.60}")
    return tuple(_encodable(tag, "hashtags") for tag in value)


def _encodable(text: str, key: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _Mistake(f"{key} has half of a surrogate pair: {text!a:.60}") from error
    return text
