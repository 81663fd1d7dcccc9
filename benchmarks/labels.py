"""How many records per second the label pipeline counts and labels, in one process and in two, and what it keeps.

    python -m benchmarks.labels [--records 400_000]

Method: MDS shards with about six hashtags per record, of 50,000 kinds with frequencies by Zipf's law, no pictures to
speak of. Each round reads them twice, as `streaming_conversion label` does: it counts, chooses the classes with at
least 10 records, and finds the labels. One and two processes, each in a process of its own, in turn, three times;
medians.

Memory is the peak of the process above what imports take, through all of labelling up to the order of the images, in
one process, with records that are made when they are looked at. Each has six hashtags of classes, and some have one
more that no other has. Differences of two sizes give what a record, a hashtag and a class take.
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
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from streaming_conversion.source import Entry

KINDS, HASHTAGS, SHARD = 50_000, 6, 10_000


class Made(Sequence[Entry]):
    """Records with `HASHTAGS` of `kinds` hashtags in turn; the first `single` have another one of their own."""

    def __init__(self, numbers: range, kinds: int, single: int) -> None:
        self.numbers, self.kinds, self.single = numbers, kinds, single

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return Made(self.numbers[index], self.kinds, self.single)
        number = self.numbers[index]
        hashtags = [f"kind{(number * HASHTAGS + i) % self.kinds}" for i in range(HASHTAGS)]
        return Entry(str(number), str(number), (*hashtags, f"single{number}") if number < self.single else (*hashtags,))


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


def time_labels(folder: str, processes: int, records: int) -> list[float]:
    """Records/s of counting and of labelling."""
    from streaming_conversion.canonical import Canonical
    from streaming_conversion.counting import choose, count
    from streaming_conversion.hashtags import normalise
    from streaming_conversion.labels import find_labels
    from streaming_conversion.mds import FromShards, read_samples
    from streaming_conversion.source import Source

    canonical = Canonical("none")
    samples, digest = read_samples(Path(folder))
    source = Source("label", {}, samples[:records], FromShards(Path(folder)), stamp=digest)
    began = time.perf_counter()
    counts = count(source, canonical, processes)
    counted = time.perf_counter()
    indices = {key: index for index, key in enumerate(choose(counts, canonical, 10, None))}
    middle = time.perf_counter()
    find_labels(source, indices, normalise, processes)
    return [records / (counted - began), records / (time.perf_counter() - middle)]


def measure_memory(records: int, kinds: int, single: int) -> list[float]:
    """Bytes at the peak."""
    from streaming_conversion.canonical import Canonical
    from streaming_conversion.groups import Grouping
    from streaming_conversion.labelling import from_hashtags
    from streaming_conversion.source import Source

    source = Source("label", {}, Made(range(records), kinds, single), str.encode)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    from_hashtags(source, Canonical("none"), None, (10, None), {}, Grouping(), 1)
    return [(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024]


def in_own_process(*arguments: object) -> list[float]:
    """What one of the two functions above gives."""
    command = [sys.executable, "-m", "benchmarks.labels", "--run", json.dumps(arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return list(json.loads(done.stdout))


def report_speed(records: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), records)
        rounds = [{n: in_own_process("speed", folder, n, records) for n in (1, 2)} for _ in range(3)]
    for processes in (1, 2):
        counted, labelled = (statistics.median(each[processes][i] for each in rounds) for i in range(2))
        name = f"{processes} process{'' if processes == 1 else 'es'}"
        print(f"{records:>10,} records, {name}: {counted:>9,.0f} counted/s {labelled:>9,.0f} labelled/s", flush=True)


def report_memory(records: int) -> None:
    sizes = {  # records, classes, hashtags that one record has
        "base": (records, KINDS, 0),
        "records": (4 * records, KINDS, 0),
        "classes": (4 * records, 4 * KINDS, 0),
        "some hashtags": (2 * records, KINDS, records),
        "more hashtags": (4 * records, KINDS, 4 * records),
    }
    peaks = {name: in_own_process("memory", *size)[0] for name, size in sizes.items()}
    for name, size in sizes.items():
        print(
            "{:>10,} records, {:>7,} classes, {:>9,} single hashtags: ".format(*size) + f"{peaks[name] / 1e6:5.0f} MB"
        )
    per_record = (peaks["records"] - peaks["base"]) / (3 * records)
    per_class = (peaks["classes"] - peaks["records"]) / (3 * KINDS)
    some = (peaks["some hashtags"] - peaks["base"] - per_record * records) / records
    more = (peaks["more hashtags"] - peaks["records"]) / (4 * records)
    print(
        f"{per_record:.0f} bytes per record with {HASHTAGS} labels, {per_class:.0f} per class; {some:.0f} per distinct "
        f"hashtag of {records:,}, {more:.0f} of {4 * records:,}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=400_000, help="at least 100,000; default: 400,000")
    parser.add_argument("--run", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        what, *arguments = options.run
        print(json.dumps((time_labels if what == "speed" else measure_memory)(*arguments)))
    else:
        report_speed(options.records)
        report_memory(options.records)


if __name__ == "__main__":
    main()
