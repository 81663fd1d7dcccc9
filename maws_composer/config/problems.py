"""A user's mistakes, and how they are told."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path


@dataclass(frozen=True)
class Problem:
    """One mistake.

    Args:
        path: the dotted key that it is about.
        message: what is wrong and what to do, in plain words.
        where: where the value came from, such as "yamls/my_run.yaml, line 4".
    """

    path: str
    message: str
    where: str = ""


def not_there(path: str | Path, otherwise: str = "") -> str:
    """That a file or folder does not exist, and the nearest one that does.

    Args:
        path: its folders may be missing, too.
        otherwise: what to do, said where nothing is near.
    """
    near = nearest_path(Path(path).expanduser())
    cure = f"nearest is {near}" if near else otherwise
    return f"does not exist; {cure}" if cure else "does not exist"


def nearest_path(path: Path) -> Path | None:
    """What is named most like a path that does not exist, in the same folder, or in the nearest one to it."""
    if path == path.parent:
        return None
    above = path.parent if path.parent.is_dir() else nearest_path(path.parent)
    if above is None or not above.is_dir() or not os.access(above, os.R_OK):
        return None
    if (above / path.name).exists():
        return above / path.name
    by_stem = {Path(name).stem: name for name in sorted(os.listdir(above))}  # or all YAMLs would be alike
    close = get_close_matches(path.stem, by_stem, n=1)
    return above / by_stem[close[0]] if close else None


_WIDEST = 80  # of a column; what is longer sticks out


class ConfigError(Exception):
    """The user's mistakes, all of them; `train.py` prints them and exits with 2."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(f"{problem.path}: {problem.message}" for problem in self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[Problem]]]:
        """It travels between ranks, and its arguments are not its message."""
        return type(self), (self.problems,)


class ForeseenError(RuntimeError):
    """An end of a run that its message says all about: nobody needs a traceback to know what to do."""


def format_problems(path: str, problems: Sequence[Problem]) -> str:
    """The problems of the configuration at `path`, one line each, in aligned columns."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    first = max((len(problem.path) for problem in problems), default=0)
    widths = [len(problem.message.partition("\n")[0]) for problem in problems]
    second = max((width for width in widths if width <= _WIDEST), default=0)
    return "\n".join([f"{path} has {count}:", "", *(_line(problem, first, second) for problem in problems)])


def _line(problem: Problem, first: int, second: int) -> str:
    head, *more = problem.message.split("\n")
    where = f"({problem.where})" if problem.where else ""
    line = f"  {problem.path:<{first}}  {head:<{second}}  {where}".rstrip()
    return "\n".join([line, *(" " * (first + 4) + extra for extra in more)])
