"""Ranks tell one another that they live, and why they end: beside the collectives, since it is these that hang.

Over a connection of its own to the process group's store, which rank 0's process, or torchrun's agent, serves from a
thread that does not need Python. Rank 0 listens to all, the others to rank 0: one small request a beat and rank.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from maws_composer.parallel.agree import on_every_rank

BEAT = 2.0  # seconds


@dataclass(frozen=True)
class Sign:
    """What a rank says of itself at every beat.

    Attributes:
        beats: so far; a rank that lives says another number each time.
        progress: signs of progress so far; see `progress.py`.
        doing: the last of them.
        host: where it runs.
        process: its id there.
    """

    beats: int
    progress: int
    doing: str
    host: str
    process: int


@dataclass(frozen=True)
class Verdict:
    """Why the run ends: announced once, the same for all ranks.

    Attributes:
        by: the rank that announced it.
        text: a sentence.
        is_stuck: all ranks live and none gets on: each writes down where it stands.
        gone: ranks that do not answer.
        state: what the launcher is told, see `outcome`.
    """

    by: int
    text: str
    is_stuck: bool = False
    gone: tuple[int, ...] = ()
    state: str = "failed"


class Pulse:
    """This rank's part. A collective: call it on every rank, with the process group up."""

    def __init__(self) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.host, self.process = socket.gethostname(), os.getpid()
        self._store = _connect(self.world_size)
        self._beats = 0
        self._lock = threading.Lock()  # a store answers one thread at a time
        self.beat(0, "starting")
        # From here on everyone's sign is there to be read. A barrier would guess which GPU is whose.
        on_every_rank(lambda: None)

    def beat(self, progress: int, doing: str) -> None:
        """Say that this rank lives."""
        self._beats += 1
        sign = Sign(self._beats, progress, doing, self.host, self.process)
        with self._lock:
            self._store.set(_sign(self.rank), json.dumps(asdict(sign)))

    def signs(self, ranks: Collection[int]) -> dict[int, Sign]:
        """The last sign of each of the ranks."""
        with self._lock:
            found = self._store.multi_get([_sign(rank) for rank in ranks])
        return {rank: Sign(**json.loads(sign)) for rank, sign in zip(ranks, found, strict=True)}

    def verdict(self) -> Verdict | None:
        """What was announced, if anything was."""
        with self._lock:
            return _parse(self._store.get("verdict")) if self._store.check(["verdict"]) else None

    def announce(self, verdict: Verdict) -> Verdict:
        """Have the run end; returns the verdict that counts, which is the first."""
        with self._lock:
            return _parse(self._store.compare_set("verdict", "", json.dumps(asdict(verdict))))

    def say_where(self, place: str) -> None:
        """Of a rank that is stuck: where it stands."""
        with self._lock:
            self._store.set(f"where/{self.rank}", place)

    def where(self, patience: float) -> dict[int, str]:
        """Where each rank stands, of those that said so within `patience` seconds."""
        places: dict[int, str] = {}
        give_up = time.monotonic() + patience
        while len(places) < self.world_size and time.monotonic() < give_up:
            time.sleep(0.1)
            with self._lock:
                for rank in set(range(self.world_size)) - set(places):
                    if self._store.check([f"where/{rank}"]):
                        places[rank] = self._store.get(f"where/{rank}").decode()
        return dict(sorted(places.items()))

    def come_to(self, place: str) -> None:
        """Say that this rank has come to some place."""
        with self._lock:
            self._store.add(f"at/{place}", 1)

    def wait_for_others(self, place: str, count: int, patience: float) -> bool:
        """Wait until so many ranks have come there; whether they have."""
        give_up = time.monotonic() + patience
        while time.monotonic() < give_up:
            with self._lock:
                if self._store.add(f"at/{place}", 0) >= count:
                    return True
            time.sleep(0.1)
        return False


class Unchanged:
    """For how long something has not changed, of the time that this process was awake."""

    def __init__(self) -> None:
        self._value: object = None
        self._seconds = 0.0

    def look(self, value: object, seconds: float) -> float:
        """Look again, so many seconds later."""
        self._seconds = self._seconds + seconds if value == self._value else 0.0
        self._value = value
        return self._seconds


def _connect(world_size: int) -> Any:  # a store: torch's stubs lack half of its methods
    if world_size == 1:
        return dist.HashStore()
    store = dist.TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=timedelta(seconds=10), wait_for_workers=False
    )
    return dist.PrefixStore(f"pulse/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _sign(rank: int) -> str:
    return f"sign/{rank}"


def _parse(verdict: bytes) -> Verdict:
    fields = json.loads(verdict)
    return Verdict(**{**fields, "gone": tuple(fields["gone"])})
