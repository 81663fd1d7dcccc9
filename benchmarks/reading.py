"""Raw samples per second of processes that read the same local shards side by side: ours, and plain streaming.

    python -m benchmarks.reading [--processes 1 2 16] [--bytes 20_000]

Method: each process is a rank of one node and iterates its dataset, shuffled, by itself, without decoding, collating or
handing over; the files are in the page cache. All processes begin together, and count for some seconds. Ours and
plain streaming in turn, three rounds, medians. Printed: samples/s of all processes together, and per process for each
second of CPU that it used, which says more where other programs want the same cores. What waiting for the lock that the
node shares costs is in the first figure only.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch.distributed as dist
from streaming import MDSWriter, Stream, StreamingDataset

from benchmarks.pictures import AsItIs
from maws_composer.data.dataset import SampleDataset
from maws_composer.data.guards import DataStream
from maws_composer.data.loader import train_order
from maws_composer.data.settings import TrainData
from maws_composer.data.sources import training_shards

SAMPLES, REPEAT, BATCH, CANONICAL, WARM_UP = 20_000, 200, 64, 16, 2_000


class Rate(NamedTuple):
    """Samples per second on the clock, and per second of CPU."""

    clock: float
    cpu: float


def ours(data: Path, scratch: Path, processes: int) -> StreamingDataset:
    settings = TrainData(local=str(data), repeat=REPEAT, num_canonical_nodes=CANONICAL)
    (shards,) = training_shards(settings)
    return SampleDataset(
        [DataStream(shards, scratch, {"image": "image", "id": "id"}, settings)],
        lambda indexes: train_order(settings, 0, BATCH * processes, indexes),
        AsItIs(),
        batch_size=BATCH,
        global_batch_size=BATCH * processes,
        canonical_nodes=CANONICAL,
        settings=settings,
        folder=scratch,
        workers=0,
        patience=60,
        decode=lambda data, max_pixels: data,
    )


def plain(data: Path, scratch: Path, processes: int) -> StreamingDataset:
    return StreamingDataset(
        streams=[Stream(local=str(data), repeat=REPEAT)],
        batch_size=BATCH,
        shuffle=True,
        num_canonical_nodes=CANONICAL,
        shuffle_block_size=1 << 18,
    )


DATASETS: dict[str, Callable[[Path, Path, int], StreamingDataset]] = {"ours": ours, "streaming": plain}


def write(folder: Path, size: int) -> None:
    """Shards of samples that no picture could be smaller than."""
    noise = np.random.default_rng(0).bytes(size)
    with MDSWriter(out=str(folder), columns={"image": "bytes", "id": "str"}, hashes=["sha1"]) as writer:
        for number in range(SAMPLES):
            writer.write({"image": noise, "id": str(number)})


def measure(name: str, data: Path, processes: int, seconds: float) -> list[Rate]:
    """The rate of each process."""
    context = multiprocessing.get_context("fork")
    rates: Queue[Rate] = context.Queue()
    with tempfile.TemporaryDirectory() as scratch, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        ranks = [
            context.Process(target=_read, args=(name, data, Path(scratch), processes, rank, port, seconds, rates))
            for rank in range(processes)
        ]
        for rank in ranks:
            rank.start()
        found = [rates.get(timeout=600) for _ in ranks]
        for rank in ranks:
            rank.join()
    return found


def _read(
    name: str, data: Path, scratch: Path, processes: int, rank: int, port: int, seconds: float, rates: Queue[Rate]
) -> None:
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    os.environ.update({name: str(value) for name, value in variables.items()})
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes)
    samples: Iterator[Any] = iter(DATASETS[name](data, scratch, processes))
    count = sum(1 for _ in islice(samples, WARM_UP))
    dist.barrier()
    began, cpu, count = time.perf_counter(), time.process_time(), 0
    while (passed := time.perf_counter() - began) < seconds:
        count += sum(1 for _ in islice(samples, 100))
    rates.put(Rate(count / passed, count / (time.process_time() - cpu)))
    dist.barrier()
    rates.close()
    rates.join_thread()
    os._exit(0)  # without the threads of an unfinished epoch; the shared memory goes with the last process


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 16])
    parser.add_argument("--bytes", type=int, default=20_000, help="of a sample")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), options.bytes)
        for processes in options.processes:
            rounds: dict[str, list[list[Rate]]] = {name: [] for name in DATASETS}
            for _ in range(options.rounds):
                for name, found in rounds.items():
                    found.append(measure(name, Path(folder), processes, options.seconds))
            for name, found in rounds.items():
                together = statistics.median(sum(rate.clock for rate in rates) for rates in found)
                per_cpu = statistics.median(rate.cpu for rates in found for rate in rates)
                print(
                    f"{processes:>3} processes, {name:<10} {together:9,.0f} samples/s together, {per_cpu:9,.0f} per "
                    f"process and second of CPU",
                    flush=True,
                )


if __name__ == "__main__":
    main()
