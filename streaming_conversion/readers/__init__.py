"""One file per kind of source; its name is the name on the command line.

A reader has a docstring whose first line is its help, `add_arguments(parser)`, and
`read(arguments) -> dict[str, Source]`: sub-folder of the destination ("" for itself) -> what is written there.
Its imports are light: every reader is imported for `--help`.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from typing import Protocol, cast

from streaming_conversion.source import Source


class Reader(Protocol):
    """What a module in this folder offers."""

    __doc__: str | None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the reader's own arguments."""

    def read(self, arguments: argparse.Namespace) -> dict[str, Source]:
        """Find the samples. Raises ConversionError with everything that is wrong with them."""


def readers() -> dict[str, Reader]:
    """Name -> reader, for every module in this folder."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: cast(Reader, importlib.import_module(f"{__name__}.{name}")) for name in names}
