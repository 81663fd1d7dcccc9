"""A source into a destination: parts first, then what describes them, and `index.json` last.

A conversion that ends before, for whatever reason, leaves no `index.json`, and the same command goes on with it: each
finished part has a marker in `.conversion/`.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maws_composer.data.columns import CAPTION, DATASET_FILE, HASHTAGS, DatasetFile, DatasetFileError, Group
from streaming_conversion import VERSION
from streaming_conversion.destination import INDEX, STATE, Destination, open_destination
from streaming_conversion.groups import describe_group
from streaming_conversion.parts import PartResult, PartTask
from streaming_conversion.problems import ConversionError, counted
from streaming_conversion.processes import Progress, write_parts
from streaming_conversion.source import Source

SETTINGS = f"{STATE}/settings.json"
SKIPPED = "skipped.jsonl"


@dataclass(frozen=True)
class Options:
    """How to convert.

    Args:
        processes: how many; the result is the same.
        shard_bytes: largest size of a shard.
        part_size: images per part, the unit of work and of resumption.
        decode: whether each picture is decoded to see that it can be.
        max_pixels: see `why_unusable`.
        max_bad: the largest share of pictures that may be skipped.
        overwrite: begin anew in a destination that has been written to.
        scratch: for parts on their way to object storage; None for the system's temporary folder.
    """

    processes: int = 1
    shard_bytes: int = 1 << 26
    part_size: int = 10_000
    decode: bool = True
    max_pixels: int = 178_956_970
    max_bad: float = 0.01
    overwrite: bool = False
    scratch: Path | None = None

    def deciding(self) -> dict[str, Any]:
        """What decides the bytes that are written."""
        return {
            "shard_bytes": self.shard_bytes,
            "part_size": self.part_size,
            "decode": self.decode,
            "max_pixels": self.max_pixels,
        }


@dataclass(frozen=True)
class Summary:
    """What a conversion did."""

    name: str
    dataset: DatasetFile
    written_now: int
    seconds: float

    def __str__(self) -> str:
        counts = self.dataset.counts
        pace = (
            f"{self.written_now / self.seconds:,.0f} images/s ({self.seconds:.1f} s)" if self.written_now else "resumed"
        )
        skipped = f", {counts['skipped']:,} skipped (see {SKIPPED})" if counts["skipped"] else ""
        size = f"{counts['bytes'] / 1e6:,.1f} MB in {counted(counts['shards'], 'shard')}"
        return f"{self.name}: {counted(counts['images'], 'image')}, {size}{skipped}; {pace}"


def finished(source: Source, address: str, options: Options) -> bool:
    """Whether `address` already holds exactly this conversion, whole."""
    destination = open_destination(address, options.scratch)
    with destination.lock():
        if destination.read(INDEX) is None:
            return False
        try:
            dataset = DatasetFile.from_json(destination.read(DATASET_FILE) or b"")
        except DatasetFileError:
            return False
    return not _differences(dataset, _describe(source, options))


def convert(source: Source, address: str, options: Options) -> Summary:
    """Convert `source` into the destination at `address`, or go on where an interrupted conversion stopped.

    Raises:
        ConversionError: the destination is in use, finished, of another conversion or not to be reached; a picture
            cannot be read; too many do not decode. No `index.json` is written then.
    """
    if not source.entries:
        raise ConversionError("there are no images to convert")
    destination = open_destination(address, options.scratch)
    with destination.lock():
        _prepare(destination, _describe(source, options), options.overwrite)
        return _convert(source, destination, options)


def _describe(source: Source, options: Options) -> DatasetFile:
    return DatasetFile(
        reader=source.reader,
        converter_version=VERSION,
        columns=source.columns,
        source=source.provenance,
        source_digest=source.digest(),
        settings=options.deciding() | source.settings,
        counts={"source_images": len(source.entries)},
        classes=source.labelling.classes if source.labelling else None,
    )


def _prepare(destination: Destination, dataset: DatasetFile, overwrite: bool) -> None:
    """See to it that the destination is empty, or holds the beginning of this very conversion."""
    if overwrite:
        destination.clear()
    if destination.read(INDEX) is not None:
        raise ConversionError(f"{destination.name} holds a finished dataset; --overwrite replaces it")
    begun = destination.read(SETTINGS)
    if begun is None:
        destination.require_unused()
        destination.write(SETTINGS, dataset.to_json().encode())
        return
    if differences := _differences(DatasetFile.from_json(begun), dataset):
        raise ConversionError(
            f"{destination.name} holds the beginning of another conversion; go on with the same source and settings, "
            "or begin anew with --overwrite",
            differences,
        )


def _differences(begun: DatasetFile, now: DatasetFile) -> list[str]:
    """What decides the bytes and is not the same."""
    then_values = {"reader": begun.reader, "converter": begun.converter_version, "columns": sorted(begun.columns)}
    now_values = {"reader": now.reader, "converter": now.converter_version, "columns": sorted(now.columns)}
    then_values |= begun.settings
    now_values |= now.settings
    differences = [
        f"{key} was {then_values.get(key)}, is {now_values.get(key)}"
        for key in sorted(then_values.keys() | now_values.keys())
        if then_values.get(key) != now_values.get(key)
    ]
    if begun.source_digest != now.source_digest:
        then, current = (each.counts.get("source_images", 0) for each in (begun, now))
        numbers = f"{then:,} images then, {current:,} now" if then != current else "as many images, not the same"
        differences.append(f"the source has changed: {numbers}")
    return differences


def _convert(source: Source, destination: Destination, options: Options) -> Summary:
    began = time.monotonic()
    tasks = _tasks(source, destination, options)
    results = _finished_parts(tasks, destination)
    before = sum(result.images for result in results.values())
    bad = sum(len(result.skipped) for result in results.values())

    def settle(task: PartTask, result: PartResult) -> None:
        destination.settle_part(task.name)
        destination.write(_marker(task), json.dumps(result.to_json()).encode())
        results[task.name] = result
        _require_few_bad(destination, source, options, list(results.values()))

    with Progress(len(source.entries), before + bad) as progress:
        _require_few_bad(destination, source, options, list(results.values()))
        write_parts([task for task in tasks if task.name not in results], options.processes, progress, settle)
    dataset = _write_whole(source, destination, options, {task.name: results[task.name] for task in tasks})
    return Summary(destination.name, dataset, dataset.counts["images"] - before, time.monotonic() - began)


def _tasks(source: Source, destination: Destination, options: Options) -> list[PartTask]:
    columns = source.columns
    tasks = []
    for number, entries in enumerate(source.parts(options.part_size)):
        name = f"part-{number:06}"
        folder, remote = destination.part(name)
        limits = (options.shard_bytes, options.decode, options.max_pixels)
        tasks.append(PartTask(name, entries, source.load, columns, folder, remote, *limits))
    return tasks


def _marker(task: PartTask) -> str:
    return f"{STATE}/{task.name}.json"


def _finished_parts(tasks: Sequence[PartTask], destination: Destination) -> dict[str, PartResult]:
    """The parts that have a marker, and the files which it names."""

    def result(task: PartTask) -> PartResult | None:
        marker = destination.read(_marker(task))
        if marker is None:
            return None
        found = PartResult(**json.loads(marker))
        files = {f"{task.name}/{info['basename']}": info["bytes"] for info in (s["raw_data"] for s in found.shards)}
        return found if destination.holds(files) else None

    with ThreadPoolExecutor(16) as pool:  # one request each, in object storage
        found = pool.map(result, tasks)
        return {task.name: each for task, each in zip(tasks, found, strict=True) if each is not None}


def _require_few_bad(destination: Destination, source: Source, options: Options, results: Sequence[PartResult]) -> None:
    skipped = [record for result in results for record in result.skipped]
    if len(skipped) > options.max_bad * len(source.entries):
        destination.write(SKIPPED, _skipped_lines(skipped))
        raise ConversionError(
            f"{len(skipped):,} of {counted(len(source.entries), 'image')} cannot be used so far, more than --max-bad "
            f"{options.max_bad:g}; all of them are in {destination.name}/{SKIPPED}; nothing was finished",
            [f"{record['source']}: {record['reason']}" for record in skipped],
        )


def _skipped_lines(skipped: Sequence[dict[str, str]]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in skipped).encode()


def _write_whole(
    source: Source, destination: Destination, options: Options, parts: dict[str, PartResult]
) -> DatasetFile:
    """Write what makes the parts a dataset; the index last, since it is what readers look for."""
    results = list(parts.values())
    shards = [_in_root(shard, name) for name, result in parts.items() for shard in result.shards]
    skipped = [record for result in results for record in result.skipped]
    destination.write(SKIPPED, _skipped_lines(skipped))
    if not shards:
        raise ConversionError(f"no image of the source can be used; see {destination.name}/{SKIPPED}")
    begun = _describe(source, options)
    dataset = replace(
        begun, counts=begun.counts | _counts(source, results, shards), groups=_groups(source, options, results)
    )
    for name, content in source.labelling.files.items() if source.labelling else ():
        destination.write(name, content)
    destination.write(DATASET_FILE, dataset.to_json().encode())
    destination.write(INDEX, json.dumps({"version": 2, "shards": shards}, sort_keys=True).encode())
    destination.finish()
    return dataset


def _groups(source: Source, options: Options, results: Sequence[PartResult]) -> list[Group]:
    """What each group has become: without pictures that could not be used, and it may be all of a group's."""
    if source.labelling is None:
        return []
    found = []
    parts = iter(zip(source.runs(options.part_size), results, strict=True))
    for run_count in (-(-size // options.part_size) for size in source.labelling.groups):
        of_group = list(itertools.islice(parts, run_count))
        frequencies = np.concatenate([_frequencies(source, run, result) for run, result in of_group])
        if len(frequencies):
            found.append(describe_group(sum(len(result.shards) for _, result in of_group), frequencies))
    return found


def _frequencies(source: Source, run: slice, result: PartResult) -> NDArray[np.float64]:
    """Of the rarest class of each image that was written."""
    assert source.labelling is not None
    frequencies = source.labelling.frequencies[source.labelling.rarest[run]]
    if not result.skipped:
        return frequencies
    left_out = {record["id"] for record in result.skipped}
    return frequencies[[entry.id not in left_out for entry in source.entries[run]]]


def _in_root(shard: dict[str, Any], part: str) -> dict[str, Any]:
    """A shard's entry in the index of the dataset, made from its entry in the index of its part."""
    raw = shard["raw_data"]
    return shard | {"raw_data": raw | {"basename": f"{part}/{raw['basename']}"}}


def _counts(source: Source, results: Sequence[PartResult], shards: Sequence[dict[str, Any]]) -> dict[str, int]:
    counts = {
        "images": sum(result.images for result in results),
        "skipped": sum(len(result.skipped) for result in results),
        "shards": len(shards),
        "bytes": sum(shard["raw_data"]["bytes"] for shard in shards),
    }
    for column in (HASHTAGS, CAPTION):
        if column in source.columns:
            counts[f"without_{column}"] = sum(result.without[column] for result in results)
    if source.labelling is not None:
        counts["unlabelled"] = source.labelling.unlabelled
    return counts
