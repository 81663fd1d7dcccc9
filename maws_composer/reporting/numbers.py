"""Numbers as a person reads them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """`3 days 4 h`, `2 h 5 min`, `4 min 0 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} day{'s' * (days > 1)} {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def percent(share: float) -> str:
    """`41 %`, `1.4 %`, `less than 0.01 %`."""
    if 0 < share < 1e-4:
        return "less than 0.01 %"
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def count(number: int, what: str, plural: str = "") -> str:
    """`1 step`, `1,200 steps`."""
    return f"{number:,} {what if number == 1 else plural or what + 's'}"


def brief(number: float) -> str:
    """Five digits at most: `0.4631`, `12,345`, `1.2e-05`."""
    return f"{number:,.0f}" if 1000 <= abs(number) < 1e6 else f"{number:.4g}"
