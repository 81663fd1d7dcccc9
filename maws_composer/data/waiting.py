"""A process that reads samples says for which shard it waits, and does not wait forever."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import TypeVar

from maws_composer.data.guards import ShardError

Item = TypeVar("Item")
log = logging.getLogger(__name__)

_LONGEST_SILENCE = 30.0
_LOOK = 0.5


class Patience:
    """Looks from a thread of its own how long the next sample takes to come.

    Args:
        limit: seconds without a batch; 0: no limit. Before that, it is said for what.
        batch_size: samples of a batch.
        awaited: says what the next sample needs.
        give_up: told what to raise once the limit is reached.
    """

    def __init__(
        self, limit: float, batch_size: int, awaited: Callable[[], str], give_up: Callable[[ShardError], None]
    ) -> None:
        self._limit, self._batch_size = limit, batch_size
        self._awaited, self._give_up = awaited, give_up
        self._silence = min(_LONGEST_SILENCE, limit / 3) if limit else _LONGEST_SILENCE
        self._asked_at: float | None = None  # None: it is the reader who has to go on
        self._waited = 0.0  # for earlier samples of the batch
        self._over = threading.Event()

    def each(self, samples: Iterator[Item]) -> Iterator[Item]:
        """The same samples."""
        threading.Thread(target=self._look, name="patience", daemon=True).start()
        try:
            for number in count():
                if number % self._batch_size == 0:
                    self._waited = 0.0
                asked_at = self._asked_at = time.monotonic()
                try:
                    sample = next(samples)
                except StopIteration:
                    return
                self._asked_at = None
                self._waited += time.monotonic() - asked_at
                yield sample
        finally:
            self._over.set()

    def _look(self) -> None:
        said = 0.0
        while not self._over.wait(_LOOK):
            asked_at = self._asked_at
            waited = self._waited + time.monotonic() - asked_at if asked_at is not None else 0.0
            if self._limit and waited > self._limit:
                message = f"no batch for {waited:.0f} s, speed.loader_timeout is {self._limit:g}: {self._awaited()}"
                self._give_up(ShardError(message))
                return
            if waited < self._silence:
                said = 0.0
            elif waited - said > self._silence:
                said = waited
                log.warning("no batch for %.0f s: %s", waited, self._awaited())
