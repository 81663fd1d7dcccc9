"""Object storage that is away is waited for, and no rank that waits counts as stuck."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from maws_composer.outages import insist, is_mistake
from maws_composer.resilience.progress import limited_wait

Result = TypeVar("Result")


def wait_for_storage(
    action: Callable[[], Result],
    what: str,
    patience: float,
    unless: Callable[[Exception], bool] = is_mistake,
) -> Result:
    """Read or write until it succeeds.

    Args:
        action: may be done twice.
        what: for messages.
        patience: seconds from the first failure on.
        unless: which errors are raised as they are, at once.

    Raises:
        StorageError: storage stayed away for longer than `patience`.
    """
    with limited_wait(f"waiting for {what}"):
        return insist(action, what, patience, unless=unless)
