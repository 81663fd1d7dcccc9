"""How long one node takes to plan an epoch: ours, which plans its own part, against streaming's, which plans all.

    python -m benchmarks.epoch_order [--samples 10_000_000] [--nodes 64]

Method: both plan the first epoch of the same shards (10,000 samples each, py1e-like shuffling in blocks of 2**18, 768
canonical nodes, 8 GPUs per node, 8 workers per GPU), each in a process of its own, in turn, three times; medians are
compared, and the peak of resident memory above what imports take.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from benchmarks.memory import peak_memory

CANONICAL, GPUS, WORKERS, BATCH, BLOCK, SHARD = 768, 8, 8, 8, 1 << 18, 10_000


def plan_ours(samples: int, nodes: int) -> None:
    """One node's part, as data/dataset.py asks for it."""
    from maws_composer.data.order import TrainOrder

    sizes = np.full(samples // SHARD, SHARD, np.int64)
    order = TrainOrder(sizes, (len(sizes),), (1.0,), 0, CANONICAL, nodes * GPUS * BATCH, shuffle=True, block_size=BLOCK)
    plan = np.empty(order.node_samples(0, nodes), np.int64)
    order.fill_node_plan(plan, epoch=0, start=0, node=0, nodes=nodes)


def plan_streaming(samples: int, nodes: int) -> None:
    """Partition and shuffle of streaming 0.13, which every node's leader computes for all nodes."""
    from streaming.base.partition import get_partitions
    from streaming.base.shuffle import get_shuffle

    sizes = np.full(samples // SHARD, SHARD, np.int64)
    order = get_shuffle("py1e", sizes, CANONICAL, 0, 0, BLOCK)
    partition = get_partitions("relaxed", samples, CANONICAL, nodes, GPUS, WORKERS, BATCH, 0, nodes)
    np.where(partition != -1, order[partition], -1)


PLANS: dict[str, Callable[[int, int], None]] = {"ours": plan_ours, "streaming": plan_streaming}


def measure(name: str, samples: int, nodes: int) -> tuple[float, float]:
    """Seconds and gigabytes of one plan, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.epoch_order", "--only", name]
    command += ["--samples", str(samples), "--nodes", str(nodes)]
    return tuple(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def run_once(name: str, samples: int, nodes: int) -> None:
    PLANS[name](SHARD * CANONICAL, nodes)  # imports, and numpy's first calls
    before = peak_memory()
    began = time.perf_counter()
    PLANS[name](samples, nodes)
    seconds = time.perf_counter() - began
    print(json.dumps([seconds, (peak_memory() - before) / 1e9]))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000_000)
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--only", choices=PLANS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.only:
        run_once(options.only, options.samples, options.nodes)
        return
    rounds = [{name: measure(name, options.samples, options.nodes) for name in PLANS} for _ in range(3)]
    medians = {name: [statistics.median(r[name][i] for r in rounds) for i in (0, 1)] for name in PLANS}
    for name, (seconds, gigabytes) in medians.items():
        print(f"{name:<10} {seconds:8.2f} s {gigabytes:8.2f} GB")
    print(f"streaming / ours: {medians['streaming'][0] / medians['ours'][0]:.0f} times as long")


if __name__ == "__main__":
    main()
