"""`maws-composer`: what one does beside training."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from maws_composer.cli.plugins import add_new, add_registry
from maws_composer.cli.runs import add_checkpoints, add_probe, add_report
from maws_composer.cli.training import add_launch, add_plan
from maws_composer.cli.weights import add_embed, add_export, add_inspect, add_text_tower
from maws_composer.config.problems import ConfigError, format_problems

_COMMANDS = (
    add_plan, add_launch, add_report, add_checkpoints, add_probe, add_export, add_inspect, add_embed, add_text_tower,
    add_registry, add_new,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command; returns the exit code: 2 for mistakes in a configuration."""
    options = parser().parse_args(arguments)
    try:
        code: int | None = options.run(options)
    except ConfigError as error:
        print(format_problems(options.command, error.problems), file=sys.stderr)
        return 2
    return code or 0


def parser() -> argparse.ArgumentParser:
    """Of all sub-commands; what is slow to import is imported by the one that runs."""
    parser = argparse.ArgumentParser(prog="maws-composer", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for add in _COMMANDS:
        add(commands)
    return parser
