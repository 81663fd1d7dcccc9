"""Which class a hashtag belongs to: the user's table first, then WordNet, or itself."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from streaming_conversion.hashtags import Spelling, normalise
from streaming_conversion.problems import ConversionError, counted

CANONICAL = ("wordnet", "table", "none")
AMBIGUOUS = ("first", "drop")
SYNSET = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Canonical:
    """A hashtag's spelling -> key of its class: a synset's identifier, or a name.

    A name of the table that is also some hashtag's spelling is one class with it where each hashtag is a class.

    Args:
        how: "wordnet": hashtags that are a noun's lemma; "table": those of the table only; "none": each hashtag is a
            class of its own.
        table: hashtag -> key, or None for a hashtag that shall have no class. Goes before everything else.
        senses: see `WordNet`.
        ambiguous: of a hashtag with several senses, "first" takes the most frequent one (WordNet's order), "drop" none.
        spell: brings a raw hashtag to its spelling.
    """

    how: str
    table: Mapping[str, str | None] = field(default_factory=dict)
    senses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ambiguous: str = "first"
    spell: Spelling = normalise

    @cached_property
    def names(self) -> frozenset[str]:
        """The classes of the table."""
        return frozenset(name for name in self.table.values() if name is not None)

    def key(self, hashtag: str) -> str | None:
        """The class of a hashtag's spelling, or None."""
        if hashtag in self.table:
            return self.table[hashtag]
        if self.how == "none":
            return hashtag
        senses = self.senses.get(hashtag, ())
        if not senses or (len(senses) > 1 and self.ambiguous == "drop"):
            return None
        return senses[0]

    def is_own(self, hashtag: str) -> bool:
        """Whether a hashtag is a class that no other hashtag leads to."""
        return self.how == "none" and hashtag not in self.table and hashtag not in self.names

    def is_synset(self, key: str) -> bool:
        """Whether a class is WordNet's, and not a name that looks like it."""
        return SYNSET.fullmatch(key) is not None and (self.how == "wordnet" or key in self.names)

    def is_ambiguous(self, hashtag: str) -> bool:
        """Whether the policy decided, and not the table."""
        return hashtag not in self.table and len(self.senses.get(hashtag, ())) > 1


def read_table(
    path: Path, spell: Spelling = normalise, has_synset: Callable[[str], bool] = lambda _: True
) -> dict[str, str | None]:
    """A table of the user's: a hashtag's spelling -> class, None where it shall have none.

    Two columns with a tab between them, hashtag and class; or a JSON object, if the file's name ends in `.json`. An
    empty class (in JSON: null) blocks the hashtag. A class such as n02132136 is WordNet's synset; anything else is a
    name.

    Args:
        path: of the file.
        spell: brings a raw hashtag to its spelling.
        has_synset: whether WordNet has it.

    Raises:
        ConversionError: the file cannot be read, or any line cannot be used; all of them at once.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = list(_json_rows(path, text) if path.suffix == ".json" else _text_rows(path, text))
    except OSError as error:
        raise ConversionError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConversionError(f"{path} is not UTF-8") from error
    table: dict[str, str | None] = {}
    said: dict[str, str] = {}
    problems = []
    for where, hashtag, name in rows:
        spelling = spell(hashtag)
        if not isinstance(name, str | None):
            problems.append(f"{where}: expected hashtag, tab, class, not {name!r:.60}")
        elif not spelling:
            problems.append(f"{where}: nothing is left of the hashtag {hashtag!r:.60}")
        elif name and SYNSET.fullmatch(name) and not has_synset(name):
            problems.append(f"{where}: WordNet has no synset {name}")
        elif table.setdefault(spelling, name or None) != (name or None):
            problems.append(f"{where}: the hashtag {spelling} has another class already ({said[spelling]})")
        else:
            said.setdefault(spelling, where)
    if problems:
        raise ConversionError(f"{path} cannot be used: {counted(len(problems), 'problem')}", problems)
    return table


def _text_rows(path: Path, text: str) -> Iterator[tuple[str, str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        fields = [each.strip() for each in line.split("\t")]
        if line.strip():
            yield f"{path}, line {number}", fields[0], fields[1] if len(fields) == 2 else [line]


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, str, Any]]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConversionError(f"{path}, line {error.lineno}: bad JSON: {error.msg}") from error
    if not isinstance(content, dict):
        raise ConversionError(f"{path} is not a JSON object of hashtag: class")
    for hashtag, name in content.items():
        yield f"{path}, key {hashtag}", hashtag, name


def table_digest(table: Mapping[str, str | None]) -> str:
    """Changes when any hashtag's class does."""
    return hashlib.sha256(repr(sorted(table.items())).encode()).hexdigest()[:16]
