"""What the user can put right."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 20


class ConversionError(Exception):
    """A conversion cannot begin or go on, for reasons in the source, the settings or the destination.

    Args:
        summary: one sentence.
        problems: all of them, each naming its file and line; the first 20 are shown, with a count of the rest.
    """

    def __init__(self, summary: str, problems: Sequence[str] = ()) -> None:
        self.problems = list(problems)
        lines = [summary + (":" if problems else ""), *([""] if problems else [])]
        lines += [f"  {problem}" for problem in problems[:SHOWN]]
        if len(problems) > SHOWN:
            lines.append(f"  … and {len(problems) - SHOWN} more")
        super().__init__("\n".join(lines))


def counted(number: int, noun: str) -> str:
    """`1 image`, `3 images`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
