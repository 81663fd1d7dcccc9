"""Real processes for tests: the ranks of a small world, each a Python of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def rank_environment(rank: int, world_size: int, port: int, nodes: int = 1) -> dict[str, str]:
    """What a launcher sets for one rank; `nodes` counts the same machine several times."""
    per_node = world_size // nodes
    return {
        **os.environ,
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": str(rank % per_node),
        "LOCAL_WORLD_SIZE": str(per_node),
        "NODE_RANK": str(rank // per_node),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }


def run_ranks(script: Path, arguments: Any, world_size: int, timeout: float = 120) -> list[dict[str, Any]]:
    """Run `script ARGUMENTS-as-JSON` as `world_size` ranks; returns the JSON that each prints as its last line."""
    port = free_port()
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), json.dumps(arguments)],
            env=rank_environment(rank, world_size, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        printed = [rank.communicate(timeout=timeout) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    failed = [f"rank {number}:\n{err[-4000:]}" for number, (_, err) in enumerate(printed) if ranks[number].returncode]
    assert not failed, "\n".join(failed)
    return [json.loads(out.strip().splitlines()[-1]) for out, _ in printed]
