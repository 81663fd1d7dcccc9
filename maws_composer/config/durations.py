"""Lengths of training as Composer writes them: "5_000_000_000sp" (samples), "1000ba" (batches), "1ep" (epochs)."""

from __future__ import annotations

import re
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator


class Duration(NamedTuple):
    """A number of samples (sp), batches (ba) or epochs (ep)."""

    amount: int
    unit: str


def parse_duration(text: str) -> Duration:
    """Read "1_000ba".

    Raises:
        ValueError: if it is no duration, or none at all.
    """
    match = re.fullmatch(r"(\d[\d_]*)(sp|ba|ep)", text)
    if match is None or int(match[1]) == 0:
        raise ValueError(f"{text!r} is not a duration such as '1000ba', '1ep' or '1_000_000sp'")
    return Duration(int(match[1]), match[2])


def samples(duration: str) -> int:
    """The number of samples in "5_000_000_000sp".

    Raises:
        ValueError: if it is not in samples.
    """
    amount, unit = parse_duration(duration)
    if unit != "sp":
        raise ValueError(f"{duration!r} is not in samples")
    return amount


def _check_interval(value: Any) -> str:
    try:
        parse_duration(value)
    except (TypeError, ValueError):
        raise ValueError(f"expected a duration such as 1000ba or 1_000_000sp, got {value!r}") from None
    return str(value)


def _check_steps(value: Any) -> str:
    try:
        is_epochs = parse_duration(value).unit == "ep"
    except (TypeError, ValueError):
        is_epochs = True
    if is_epochs:
        raise ValueError(f"expected batches or samples such as 100ba or 1_000_000sp, got {value!r}")
    return str(value)


def _check_samples(value: Any) -> str:
    try:
        samples(value)
    except (TypeError, ValueError):
        raise ValueError(f"expected a number of samples such as 5_000_000_000sp, got {value!r}") from None
    return str(value)


# Annotations for settings and for plugins' arguments; values stay text.
Interval = Annotated[str, BeforeValidator(_check_interval)]
StepInterval = Annotated[str, BeforeValidator(_check_steps)]  # that ends with a step, never with an epoch
Samples = Annotated[str, BeforeValidator(_check_samples)]
