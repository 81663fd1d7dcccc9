"""What options of the command line may be."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from maws_composer.planning.gpus import GPUS

if TYPE_CHECKING:
    from maws_composer.planning.forecast import Price

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return int(text)


def count(text: str) -> int:
    return 0 if text == "0" else positive(text)


def above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


def gpu(text: str) -> str:
    """A kind whose peak and memory are known."""
    if text.lower() not in GPUS:
        raise argparse.ArgumentTypeError(
            f"nothing is known of a GPU called {text!r}; there are {', '.join(GPUS)}: take the one that is nearest"
        )
    return text.lower()


def price(text: str) -> Price:
    """An amount, and its unit before or behind it."""
    from maws_composer.planning.forecast import Price

    parts = re.fullmatch(r"([^\d\s.+-]*)\s*(\d*\.?\d+)\s*([^\d\s.]*)", text.strip())
    if parts is None or float(parts[2]) == 0:
        raise argparse.ArgumentTypeError(f"expected an amount above 0 and perhaps its unit, as 2.5 USD, got {text!r}")
    return Price(float(parts[2]), parts[1] or parts[3])


def share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, got {text}")
    return share


def column(text: str) -> tuple[str, str]:
    ours, _, theirs = text.partition("=")
    if ours not in ("image", "id", "caption") or not theirs:
        raise argparse.ArgumentTypeError(f"expected image=, id= or caption= and its name in the shards, got {text}")
    return ours, theirs
