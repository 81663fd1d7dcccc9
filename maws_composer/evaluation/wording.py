"""What classes are called in several languages, and the sentences that their names are put into.

Prompt templates are YAML files, ours in `prompts/`:

    templates: ["a photo of {}", "a drawing of {}"]

Names are a YAML or JSON file per dataset, by class index or by the class's name in `classes.json`, and then by
language; several names are synonyms:

    0: {en: [tench, doctor fish], fr: tanche}
"""

from __future__ import annotations

import json
import os
from collections.abc import Hashable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from maws_composer.config.problems import ConfigError, Problem, not_there

LANGUAGES = {
    "ar": "Arabic", "de": "German", "en": "English", "es": "Spanish", "fa": "Persian", "fr": "French",
    "id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean", "pt": "Portuguese", "ru": "Russian",
    "tr": "Turkish", "zh": "Chinese",
}  # fmt: skip
SLOT = "{}"

_FOLDER = Path(__file__).parent / "prompts"
_SHOWN = 8  # mistakes of one file

Names = tuple[tuple[str, ...], ...]  # of each class, by index: its synonyms


class Mistake(NamedTuple):
    """Something wrong in a file, at a dotted key."""

    key: str
    message: str


def unknown_language(language: str, known: Sequence[str]) -> str:
    """One sentence about a language that has no templates."""
    spelled = {LANGUAGES.get(code, code).lower(): code for code in known} | {code: code for code in known}
    close = get_close_matches(language.lower(), spelled, n=1)
    nearest = f"nearest is {spelled[close[0]]}" if close else f"known are {', '.join(sorted(known))}"
    return f"unknown language {language!r}; {nearest}; templates of one's own make another known"


def read_templates(language: str, file: str | None = None) -> tuple[str, ...]:
    """The templates of a language.

    Args:
        language: one of LANGUAGES.
        file: one's own, for any language.

    Raises:
        ConfigError: there are none, or a template has no place for the name, or is there twice.
    """
    if file is None and language not in LANGUAGES:
        raise ConfigError([Problem("evaluations.zero_shot.languages", unknown_language(language, list(LANGUAGES)))])
    path = str(_FOLDER / f"{language}.yaml") if file is None else file
    content = read_unique(path)
    templates = content.get("templates")
    if set(content) != {"templates"} or not isinstance(templates, list) or not templates:
        raise ConfigError([Problem(path, 'expected one key, templates, with a list such as ["a photo of {}"]')])
    mistakes = []
    for number, template in enumerate(templates):
        key = f"templates.{number}"
        if not isinstance(template, str) or template.count(SLOT) != 1:
            mistakes.append(Mistake(key, f"{template!r} has not one {SLOT}, where the name of a class comes"))
        elif template in templates[:number]:
            mistakes.append(Mistake(key, f"{template!r} is there twice"))
    _refuse(path, mistakes)
    return tuple(templates)


def read_class_names(
    file: str, languages: Sequence[str], known: Sequence[str], dataset: Sequence[str] = (), only_named: bool = False
) -> tuple[dict[str, Names], tuple[int, ...]]:
    """Names of classes in each of `languages`, and the indices of these classes.

    Args:
        file: see the head of this module.
        languages: that are wanted; the file may have more.
        known: all languages that the file may have.
        dataset: names of the classes by index, as `classes.json` has them; empty without.
        only_named: the file may leave out classes of the dataset.

    Raises:
        ConfigError: with every mistake of the file.
    """
    content = read_unique(file)
    indices, mistakes = _indices(content, dataset)
    for key, entry in content.items():
        mistakes += _mistakes_of_class(key, entry, languages, known)
    classes = len(dataset) or max(indices, default=-1) + 1
    absent = sorted(set(range(classes)) - set(indices))
    if absent and not only_named:
        named = [f"{index} ({dataset[index]})" if dataset else str(index) for index in absent[:_SHOWN]]
        more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
        message = f"names no class {', '.join(named)}{more}; only_named: true leaves out classes without a name"
        mistakes.append(Mistake("", message))
    if not content:
        mistakes.append(Mistake("", "names no class"))
    _refuse(file, mistakes)
    chosen = tuple(sorted(indices))
    return {
        language: tuple(_synonyms(content[indices[index]][language]) for index in chosen) for language in languages
    }, chosen


def read_unique(file: str) -> dict[str, Any]:
    """Keys and values of a YAML or JSON file, in which no key is there twice.

    Raises:
        ConfigError: naming the file, and the key.
    """
    try:
        text = Path(os.path.expanduser(file)).read_text(encoding="utf-8")
        content = json.loads(text, object_pairs_hook=_unique) if file.endswith(".json") else yaml.load(text, _Unique)
    except FileNotFoundError:
        raise ConfigError([Problem(file, not_there(file))]) from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = "it is not text in UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise ConfigError([Problem(file, f"cannot be read: {reason}")]) from error
    if not isinstance(content, dict):
        raise ConfigError([Problem(file, "holds no keys and values")])
    return content


class _Unique(yaml.SafeLoader):
    """Plain YAML whose keys are text: `no` is Norwegian, not false. A key that is there twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(f"the key in line {key.start_mark.line + 1} is no text")
            if key.value in seen:
                raise ValueError(f"{key.value} is there twice, again in line {key.start_mark.line + 1}")
            seen.add(key.value)
            key.tag = self.DEFAULT_SCALAR_TAG
        return super().construct_mapping(node, deep)


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} is there twice")
    return content


def _indices(content: Mapping[str, Any], dataset: Sequence[str]) -> tuple[dict[int, str], list[Mistake]]:
    """Class index -> its key in the file."""
    by_name = {name: index for index, name in enumerate(dataset)}
    indices: dict[int, str] = {}
    mistakes = []
    for key in content:
        index = by_name.get(key, int(key) if key.isdecimal() else None)
        if index is None or (dataset and index >= len(dataset)):
            mistakes.append(Mistake(key, _no_class(key, dataset)))
        elif index in indices:
            mistakes.append(Mistake(key, f"is the class {indices[index]}, which is there already"))
        else:
            indices[index] = key
    return indices, mistakes


def _no_class(key: str, dataset: Sequence[str]) -> str:
    if not dataset:
        return "is no class index, and the dataset has no classes.json that would say which class it is"
    close = get_close_matches(key, dataset, n=1)
    return f"is none of the dataset's {len(dataset)} classes" + (f"; nearest is {close[0]}" if close else "")


def _mistakes_of_class(key: str, entry: Any, languages: Sequence[str], known: Sequence[str]) -> list[Mistake]:
    if not isinstance(entry, dict):
        return [Mistake(key, "expected names by language, such as {en: [cat], fr: [chat]}")]
    mistakes = [
        Mistake(f"{key}.{language}", unknown_language(language, known)) for language in entry if language not in known
    ]
    for language in languages:
        names = _synonyms(entry.get(language))
        if not names or not all(isinstance(name, str) and name.strip() for name in names):
            mistakes.append(Mistake(f"{key}.{language}", "has no name, or one that is no text"))
        elif twice := [name for number, name in enumerate(names) if name in names[:number]]:
            mistakes.append(Mistake(f"{key}.{language}", f"{twice[0]!r} is there twice"))
    return mistakes


def _synonyms(names: Any) -> tuple[Any, ...]:
    if names is None:
        return ()
    return tuple(names) if isinstance(names, list) else (names,)


def _refuse(file: str, mistakes: Sequence[Mistake]) -> None:
    if mistakes:
        problems = [
            Problem(f"{file}: {mistake.key}" if mistake.key else file, mistake.message) for mistake in mistakes[:_SHOWN]
        ]
        if len(mistakes) > _SHOWN:
            problems.append(Problem(file, f"and {len(mistakes) - _SHOWN} mistakes more"))
        raise ConfigError(problems)
