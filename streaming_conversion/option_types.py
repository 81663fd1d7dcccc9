"""What numbers on the command line may be."""

from __future__ import annotations

import argparse
import re

_UNITS = {"": 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}


def positive(text: str) -> int:
    """1, 2, 3, …"""
    digits = text.replace("_", "")
    if not digits.isdigit() or int(digits) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of at least 1")
    return int(digits)


def share(text: str) -> float:
    """0 to 1."""
    number = _number(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return number


def quality(text: str) -> int:
    """1 to 100."""
    number = positive(text)
    if number > 100:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 100")
    return number


def size(text: str) -> int:
    """`64mb` in bytes."""
    match = re.fullmatch(r"(\d+)\s*([kmg]?b?)", text.strip().lower())
    if not match or match[2] not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text} is not a size such as 64mb, 512kb, 1gb")
    number = int(match[1]) * _UNITS[match[2]]
    if not 1024 <= number < 1 << 32:
        raise argparse.ArgumentTypeError(f"{text} is not between 1kb and 4gb (MDS counts in 32 bits)")
    return number


def ratio(text: str) -> float:
    """At least 1."""
    number = _number(text)
    if not 1 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a number") from None
