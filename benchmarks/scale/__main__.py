"""A dataset of billions of samples: time to the first batch, memory of a node, each sample once.

    python -m benchmarks.scale [--samples 100_000_000] [--ranks 2] [--workers 1] [--cover 100_000_000]
    python -m benchmarks.scale --samples 5_000_000_000 --ranks 8 --workers 2 --cover 5_000_000_000

Method: shards of 10,000 samples in a bucket on loopback, which makes every shard up from the same bytes. One node of a
world of 64 or 256 nodes is started as a run starts it, each rank a fresh process, joined to its node's only: imports,
the data's preflight (in the local leader), the loader with its workers, the first batch. "CPU" is that of the local
leader and of its busiest worker: what the clock would show on an idle machine, without downloads. A node's memory
counts shared pages once (PSS), looked at once a second. A world's GPUs are `--ranks` per node.

Plain streaming's memory and time by sample are measured at 10 million samples, and multiplied.

To count 5 billion samples takes a bitmap of 0.6 GB, in a file, and the plan of one node. `--folder` keeps the bitmap,
so that the same command goes on after it was ended.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.epoch_order import measure as measure_plan
from benchmarks.scale.coverage import GPUS_PER_NODE, cover
from benchmarks.scale.start import BATCH, Start, World, measure
from benchmarks.scale.synthetic import bucket

CACHE = "20gb"  # the shards of a whole dataset would not fit on this disk
PASSES = ((512,), (2048,), (512, 2048, 96))  # GPUs, one after the other


def report_sizes(samples: int) -> None:
    """One rank and one worker of one of 64 nodes, for more and more samples; of the most a resume too."""
    sizes = [10**power for power in range(6, 10) if 10**power < samples]
    for size in [*sizes, samples]:
        with bucket(size) as (remote, index):
            _report(f"{size:>13,} samples, index {index / 1e6:6.1f} MB", measure(World(64, 1, 1), remote, cache=CACHE))
            if size == samples:
                middle = size // BATCH // 2 * BATCH
                _report(f"{size:>13,} samples, resumed", measure(World(64, 1, 1), remote, middle, CACHE))


def report_node(samples: int, ranks: int, workers: int) -> None:
    """A whole node of worlds of two sizes, at the beginning of an epoch and in its middle."""
    with bucket(samples) as (remote, _):
        for nodes in (64, 256):
            for name, start in (("start", 0), ("resume", samples // BATCH // 2 * BATCH)):
                found = measure(World(nodes, ranks, workers), remote, start, CACHE)
                assert min(found.positions) >= start and len(set(found.positions)) == BATCH // nodes
                _report(f"{samples:,} samples, {nodes} nodes of {ranks} ranks x {workers} workers, {name}", found)


def report_streaming(samples: int) -> None:
    """What plain streaming needs for each of these samples."""
    from streaming.base.spanner import Spanner

    began, count = time.process_time(), 10_000_000
    Spanner(np.full(count // 10_000, 10_000))
    spanner = (time.process_time() - began) / count
    seconds, gigabytes = measure_plan("streaming", count, 64)
    print(
        f"plain streaming, multiplied from {count:,} to {samples:,} samples: {seconds / count * samples:,.0f} s and "
        f"{gigabytes / count * samples:,.0f} GB for the plan of each node at each start, {spanner * samples:,.0f} s "
        f"and {8 * samples / 1e9:,.0f} GB for each rank"
    )


def report_coverage(samples: int, folder: Path) -> None:
    for worlds in PASSES:
        found = cover(samples, worlds, folder)
        print(
            f"{samples:,} samples on {' -> '.join(map(str, worlds))} GPUs ({GPUS_PER_NODE} per node): {found.read:,} "
            f"read, {found.distinct:,} of them distinct, an epoch is {found.epoch:,}: "
            f"{'each once' if found.is_exact else 'WRONG'}; {found.seconds:,.0f} s of CPU, "
            f"{found.memory / 1e9:.1f} GB at most",
            flush=True,
        )


def _report(name: str, start: Start) -> None:
    stages = ", ".join(f"{stage} {took.clock:.0f} ({took.cpu:.0f})" for stage, took in start.stages.items())
    rank, imports, node, worker = (size / 1e9 for size in (start.rank, start.imports, start.node, start.worker))
    print(
        f"{name}\n    seconds (CPU) to the end of: {stages}\n    rank {rank:.2f} GB at most, imports {imports:.2f}; "
        f"node {node:.2f} GB, each worker's own {worker:.3f}",
        flush=True,
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=100_000_000)
    parser.add_argument("--ranks", type=int, default=2, help="of a node")
    parser.add_argument("--workers", type=int, default=1, help="of a rank")
    parser.add_argument("--cover", type=int, default=100_000_000, help="samples that are counted one by one")
    parser.add_argument("--folder", type=Path, help="of what is counted, from which a count that was ended goes on")
    parser.add_argument("--only", choices=("sizes", "node", "streaming", "coverage"))
    options = parser.parse_args(arguments)
    parts: dict[str, Callable[[Path], None]] = {
        "sizes": lambda folder: report_sizes(options.samples),
        "node": lambda folder: report_node(options.samples, options.ranks, options.workers),
        "streaming": lambda folder: report_streaming(options.samples),
        "coverage": lambda folder: report_coverage(options.cover, folder),
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name, report in parts.items():
            if options.only in (None, name):
                report(folder)


if __name__ == "__main__":
    main()
