"""How many records per second the label pipeline counts and labels, in one process and in two, and what it keeps.

    python -m benchmarks.labels [--records 400_000]

Method: MDS shards with about six hashtags per record, of 50,000 kinds with frequencies by Zipf's law, no pictures to
speak of. Each round reads them twice, as `streaming_conversion label` does: it counts, chooses the classes with at
least 10 records, and finds the labels. One and two processes, each in a process of its own, in turn, three times;
medians. Memory is the peak of the main process while it counts, above what imports take: for all records, and for a
quarter of them.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

KINDS, HASHTAGS, SHARD = 50_000, 6, 10_000


def write(folder: Path, records: int) -> None:
    """Shards with hashtags."""
    from streaming import MDSWriter

    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, KINDS + 1)
    columns = {"image": "bytes", "id": "str", "hashtags": "json"}
    with MDSWriter(out=str(folder), columns=columns, size_limit=SHARD * 200) as writer:
        for begin in range(0, records, SHARD):
            drawn = rng.choice(KINDS, (SHARD, HASHTAGS), p=weights / weights.sum()).tolist()
            for number, kinds in enumerate(drawn):
                writer.write({"image": b"", "id": str(begin + number), "hashtags": [f"#Kind_{kind}" for kind in kinds]})


def measure(folder: Path, processes: int, records: int) -> tuple[float, float, float]:
    """Records/s of counting and of labelling, and megabytes, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.labels", "--folder", str(folder)]
    command += ["--processes", str(processes), "--records", str(records)]
    return tuple(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def run_once(folder: Path, processes: int, records: int) -> None:
    from streaming_conversion.canonical import Canonical
    from streaming_conversion.counting import choose, count
    from streaming_conversion.labels import find_labels
    from streaming_conversion.mds import FromShards, read_samples
    from streaming_conversion.source import Source

    samples, digest = read_samples(folder)
    source = Source("label", {}, samples[:records], FromShards(folder), stamp=digest)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    counts = count(source, Canonical("none"), processes)
    counted = time.perf_counter()
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    indices = {key: index for index, key in enumerate(choose(counts, 10, None))}
    find_labels(source, indices, processes)
    ended = time.perf_counter()
    print(json.dumps([records / (counted - began), records / (ended - counted), megabytes]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=400_000)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        run_once(options.folder, options.processes, options.records)
        return
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), options.records)
        runs = [(processes, records) for records in (options.records, options.records // 4) for processes in (1, 2)]
        rounds = [{run: measure(Path(folder), *run) for run in runs} for _ in range(3)]
    for processes, records in runs:
        figures = [statistics.median(each[processes, records][i] for each in rounds) for i in range(3)]
        print(
            f"{records:>10,} records, {processes} process{'' if processes == 1 else 'es'}: "
            f"{figures[0]:>9,.0f} counted/s {figures[1]:>9,.0f} labelled/s {figures[2]:6.0f} MB"
        )


if __name__ == "__main__":
    main()
