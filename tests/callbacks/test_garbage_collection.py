"""When garbage is collected."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from composer.core import Callback, State
from composer.loggers import Logger

from tests.callbacks.training import fit


class Litter(Callback):
    """Leaves more behind in each step than Python would let lie, and counts collections by the step they come in."""

    def __init__(self) -> None:
        self.batch = 0
        self.collected_in: list[int] = []

    def batch_start(self, state: State, logger: Logger) -> None:
        self.batch = int(state.timestamp.batch) + 1
        for _ in range(3 * gc.get_threshold()[0]):
            cycle: list[Any] = []
            cycle.append(cycle)

    def on_collection(self, phase: str, about: dict[str, Any]) -> None:
        if phase == "start" and self.batch:
            self.collected_in.append(self.batch)


@pytest.fixture
def litter() -> Iterator[Litter]:
    litter = Litter()
    gc.callbacks.append(litter.on_collection)
    yield litter
    gc.callbacks.remove(litter.on_collection)


def test_without_it_every_step_may_collect(tmp_path: Path, litter: Litter) -> None:
    fit(tmp_path, {}, 4, more=[litter])
    assert {1, 2, 3, 4} <= set(litter.collected_in)


def test_with_it_collections_come_when_they_are_due_and_all_at_once(tmp_path: Path, litter: Litter) -> None:
    fit(tmp_path, {"garbage_collection": {"every": "2ba"}}, 5, more=[litter])
    during = [batch for batch in litter.collected_in if batch < 5]  # after the last step Python may again
    assert during == [2, 4]
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
