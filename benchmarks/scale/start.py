"""Time and memory of one node of a large world, from the start of its processes to the first batch of each rank."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil

BATCH = 6144  # can be split over 96, 512 and 2,048 ranks


@dataclass(frozen=True)
class World:
    """Which node is simulated, of how many, and what runs on it."""

    nodes: int
    ranks: int = 8
    workers: int = 2
    node: int = 1

    @property
    def size(self) -> int:
        return self.nodes * self.ranks


class Took(NamedTuple):
    """Seconds from the start of a process to the end of a stage."""

    clock: float
    cpu: float


@dataclass(frozen=True)
class Start:
    """What a start cost, in seconds and bytes.

    Attributes:
        stages: of the local leader, for which all others wait; of CPU, its own and that of its busiest loader worker.
            That is what the clock would show on an idle machine, without downloads.
        rank, imports: most resident memory of a rank's process, and what of it was there after the imports.
        node: most of all processes together, pages that are shared counted once.
        worker: what a loader worker, on average, has for itself at that moment.
        positions: in the epoch, of the ranks' first batches.
        epoch_size: samples of an epoch.
    """

    stages: dict[str, Took]
    rank: int
    imports: int
    node: int
    worker: int
    positions: list[int]
    epoch_size: int


def measure(world: World, remote: str, start: int = 0, cache: str | None = None) -> Start:
    """Start all processes of one node, from position `start` of the epoch on, and end them after their first batch."""
    with tempfile.TemporaryDirectory() as scratch, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        plan = {
            "remote": remote, "scratch": scratch, "port": port, "nodes": world.nodes, "workers": world.workers,
            "batch": BATCH, "start": start, "cache_limit": cache,
        }  # fmt: skip
        processes = [_start(plan, world, rank) for rank in range(world.ranks)]
        watch = _Watch(processes)
        try:
            told = [json.loads(_line(process)) for process in processes]
        except BaseException:  # without one of them, the others wait for ever
            for process in processes:
                process.kill()
            raise
        finally:
            watch.stop()
            for process in processes:
                process.communicate()
    began, leader = told[0]["stages"].pop("began")[0], told[0]["stages"]
    return Start(
        stages={name: Took(clock - began, cpu) for name, (clock, cpu) in leader.items()},
        rank=max(rank["peak"] for rank in told),
        imports=max(rank["imports"] for rank in told),
        node=watch.node,
        worker=watch.worker,
        positions=[position for rank in told for position in rank["positions"]],
        epoch_size=told[0]["epoch_size"],
    )


def _start(plan: dict[str, Any], world: World, rank: int) -> subprocess.Popen[str]:
    variables = {
        "RANK": world.node % world.nodes * world.ranks + rank,
        "LOCAL_RANK": rank,
        "NODE_RANK": world.node % world.nodes,
        "WORLD_SIZE": world.size,
        "LOCAL_WORLD_SIZE": world.ranks,
        "OMP_NUM_THREADS": 1,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.scale.rank", json.dumps(plan)],
        env=os.environ | {name: str(value) for name, value in variables.items()},
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith('{"stages"'):
            return line
    raise RuntimeError(f"a rank ended before its first batch:\n{process.communicate()[1][-3000:]}")


class _Watch:
    """Looks at the memory of all processes, again and again, from a thread."""

    def __init__(self, processes: list[subprocess.Popen[str]]) -> None:
        self._ranks = [psutil.Process(process.pid) for process in processes]
        self.node = self.worker = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look a last time."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._over.wait(1)
            try:
                workers = [worker.memory_full_info() for rank in self._ranks for worker in rank.children()]
                node = sum(memory.pss for memory in (*workers, *(rank.memory_full_info() for rank in self._ranks)))
            except psutil.NoSuchProcess:
                continue
            if node > self.node:
                self.node = node
                self.worker = sum(memory.uss for memory in workers) // max(len(workers), 1)
