"""A loaded configuration as text: for a reader, with where each value came from; and to be kept with the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from maws_composer.config.load import Loaded
from maws_composer.config.secrecy import mask

_WIDEST = 60  # of the values; the remark of a longer one follows it at once


class _Dumper(yaml.SafeDumper):
    """Quotes text that one YAML reader takes for a number and another does not: 1e-4."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    try:
        float(text)
    except ValueError:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'")


_Dumper.add_representer(str, _represent_text)


def to_yaml(loaded: Loaded[Any]) -> str:
    """The resolved configuration without credentials, to be saved with the run."""
    return yaml.dump(mask(loaded.resolved, loaded.secrets), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def print_resolved(loaded: Loaded[Any]) -> str:
    """The resolved configuration without credentials, each value with where it came from."""
    lines = list(_lines(mask(loaded.resolved, loaded.secrets), ()))
    width = max((len(text) for text, path in lines if path and len(text) <= _WIDEST), default=0)
    return "\n".join(
        f"{text:<{width}}  # {loaded.provenance.get('.'.join(path), 'default')}" if path else text
        for text, path in lines
    )


def _lines(data: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each line and, if it holds a value, the path of that."""
    indent = "  " * len(path)
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            yield f"{indent}{_inline(key)}:", ()
            yield from _lines(value, (*path, key))
        else:
            yield f"{indent}{_inline(key)}: {_inline(value)}", (*path, key)


def _inline(value: Any) -> str:
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=10**9, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
