"""`--help`, answered at once: what a script does otherwise needs seconds of imports."""

from __future__ import annotations

import sys


def print_manual_if_asked(manual: str | None) -> None:
    """Print the docstring of a script and end, if its command line asks for it or names no configuration."""
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments):
        print(manual)
        sys.exit()
    if not [argument for argument in arguments if argument != "--print"]:
        sys.exit(manual)
