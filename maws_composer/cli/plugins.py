"""`maws-composer registry` and `new`: plugins that there are, and one to begin with."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from maws_composer.config.problems import ConfigError, format_problems
from maws_composer.registry import KINDS

if TYPE_CHECKING:
    from maws_composer.cli.option_types import Commands


def add_registry(commands: Commands) -> None:
    registry = commands.add_parser("registry", help="what can be named in a YAML, where it is from, its arguments")
    registry.add_argument("kind", nargs="?", choices=KINDS, help="one of %(choices)s", metavar="KIND")
    registry.add_argument("name", nargs="?", metavar="NAME")
    registry.add_argument("--code-path", action="append", default=[], help="file, folder or module with plug-ins")
    registry.set_defaults(run=_registry)


def _registry(options: argparse.Namespace) -> int:
    from maws_composer.config.plugins import our_code_paths
    from maws_composer.listing import built_in, describe, describe_all
    from maws_composer.registry import load_plugins, names

    problems = load_plugins([*our_code_paths(), *options.code_path])
    if problems:  # the others are listed all the same
        print(format_problems("registry", problems), file=sys.stderr)
    if options.name:
        print(describe(options.kind, options.name))
    elif options.kind:
        print("\n\n".join(describe_all(options.kind)))
    else:
        for kind in KINDS:
            print(f"{kind:<10} {'; '.join(filter(None, [', '.join(names(kind)), built_in(kind)])) or '-'}")
    return 2 if problems else 0


def add_new(commands: Commands) -> None:
    new = commands.add_parser("new", help="a callback that works, and its test, to begin with")
    new.add_argument("kind", choices=["callback"], metavar="KIND", help="%(choices)s")
    new.add_argument("name", metavar="NAME", help="in snake_case")
    new.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the two files are written")
    new.set_defaults(run=_new)


def _new(options: argparse.Namespace) -> None:
    from maws_composer.new_plugin import new_callback

    load_plugins([])
    print(new_callback(options.name, options.out))


def load_plugins(code_paths: list[str]) -> None:
    """Find our plugins, and those of the code paths.

    Raises:
        ConfigError: one of them cannot be imported, or two have one name.
    """
    from maws_composer import registry
    from maws_composer.config.plugins import our_code_paths

    if problems := registry.load_plugins([*our_code_paths(), *code_paths]):
        raise ConfigError(problems)
