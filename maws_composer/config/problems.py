"""A user's mistakes, and how they are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
