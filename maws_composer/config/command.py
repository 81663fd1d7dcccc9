"""The frame of train.py and evaluate.py: check everything, then work; or, with --print, show the configuration."""

from __future__ import annotations

import logging
import resource
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from composer.utils import dist

from maws_composer.config.load import Loaded
from maws_composer.config.problems import Problem
from maws_composer.config.rank_gate import load_behind_gate
from maws_composer.config.show import print_resolved
from maws_composer.parallel.leave import work_and_leave

Config = TypeVar("Config")


def check_and_work(
    arguments: Sequence[str],
    load: Callable[[str, Sequence[str], Callable[[Config], list[Problem]] | None], Loaded[Config]],
    on_disk: Callable[[Config], list[Problem]],
    preflight: Callable[[Loaded[Config]], None],
    work: Callable[[Loaded[Config]], None],
) -> int:
    """Load the YAML that the command line names, and work by it.

    Args:
        arguments: a YAML, overrides, and perhaps --print.
        load: from the YAML's path, the overrides, and what finds more problems where there are some; see `load_run`.
        on_disk: that, so that missing folders are told together with mistakes; not looked at with --print.
        preflight: what else can be wrong; neither.
        work: on every rank.

    Returns:
        The exit code: 2 for mistakes in the configuration.
    """
    printing = "--print" in arguments
    config, *overrides = [argument for argument in arguments if argument != "--print"]
    _allow_as_many_files_as_possible()
    warnings.filterwarnings("ignore", "FSDP2 Config/APIs are experimental|TypedStorage is deprecated")  # not ours
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("maws_composer").setLevel(logging.WARNING if dist.get_global_rank() else logging.INFO)
    loaded = load_behind_gate(
        config,
        lambda: load(config, overrides, None if printing else on_disk),
        preflight=lambda loaded: None if printing else preflight(loaded),
    )
    if printing:
        if dist.get_global_rank() == 0:
            print(print_resolved(loaded))
        return 0
    return work_and_leave(config, lambda: work(loaded))


def _allow_as_many_files_as_possible() -> None:
    """Each process group costs a rank a connection to every other, and the usual limit, which is soft, is 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError):  # macOS says that there is no limit, and has one
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
