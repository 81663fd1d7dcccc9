"""A benchmark's ranks: processes on this machine that run it once more, with `--rank`."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from typing import Any


def run_ranks(module: str, arguments: list[str], world_size: int) -> dict[str, Any]:
    """Run `python -m module *arguments --rank` as ranks of one thread each; returns the JSON that the first one prints.

    A rank that fails ends the benchmark with what it wrote.
    """
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    world = {
        "WORLD_SIZE": f"{world_size}",
        "LOCAL_WORLD_SIZE": f"{world_size}",
        "NODE_RANK": "0",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", module, *arguments, "--rank"]
    ranks = [
        subprocess.Popen(
            command,
            env={**os.environ, **world, "RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "MASTER_ADDR": "127.0.0.1",
                 "MASTER_PORT": f"{port}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]  # fmt: skip
    ended = [(*rank.communicate(), rank.returncode) for rank in ranks]
    for _, errors, code in ended:
        if code:
            sys.exit(f"{' '.join(command)} failed:\n{errors[-3000:]}")
    result: dict[str, Any] = json.loads(ended[0][0].splitlines()[-1])
    return result
