"""Keeps credentials out of logs, reports and saved configurations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

MASK = "***"
_WORDS = r"password|passwd|secret|token|credentials?|api[_-]?key|access[_-]?key(?:[_-]id)?"
_SECRET_NAME = re.compile(rf"(?i)(?:^|[_.-])(?:{_WORDS})(?:$|[_.-])")
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY = re.compile(rf"(?i)([?&](?:[\w-]*(?:{_WORDS}|signature)|sig)=)[^&\s]+")


def is_secret_name(name: str) -> bool:
    """Whether a key or an environment variable of this name holds a credential: `hf_token`, but not `tokenizer`."""
    return _SECRET_NAME.search(name) is not None


def secret_variables(raw: Any) -> Iterator[str]:
    """Environment variables named like credentials that unresolved values refer to as ${oc.env:NAME}."""
    for text in _texts(raw):
        for name in re.findall(r"\$\{\s*oc\.env:\s*['\"]?(\w+)", text):
            if is_secret_name(name):
                yield name


def mask(value: Any, secrets: Iterable[str] = ()) -> Any:
    """A copy of plain data without credentials.

    Masked are the values of keys that are named like one, passwords and signatures in URLs, and `secrets` anywhere.
    """
    if isinstance(value, Mapping):
        return {
            key: MASK if is_secret_name(str(key)) and not _is_empty(entry) else mask(entry, secrets)
            for key, entry in value.items()
        }
    if isinstance(value, list | tuple):
        return [mask(entry, secrets) for entry in value]
    return mask_text(value, secrets) if isinstance(value, str) else value


def mask_text(text: str, secrets: Iterable[str] = ()) -> str:
    """A text without passwords and signatures in URLs, and without `secrets`."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return _QUERY.sub(rf"\1{MASK}", _USERINFO.sub(f"{MASK}@", text))


def _is_empty(value: Any) -> bool:
    return value is None or isinstance(value, bool) or value in ("", [], {})


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _texts(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry)
