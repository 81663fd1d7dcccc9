"""A source into a destination: parts first, then what describes them, and `index.json` last.

A conversion that ends before, for whatever reason, leaves no `index.json`, and the same command goes on with it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maws_composer.data.columns import CAPTION, DATASET_FILE, HASHTAGS, RESIZE, DatasetFile, DatasetFileError, Group
from streaming_conversion import VERSION
from streaming_conversion.destination import INDEX, Destination, open_destination
from streaming_conversion.groups import describe_group
from streaming_conversion.parts import PartResult, PartTask
from streaming_conversion.problems import ConversionError, counted
from streaming_conversion.processes import Progress, write_parts
from streaming_conversion.resizing import Resizing
from streaming_conversion.resuming import (
    SKIPPED,
    differences,
    finished_parts,
    prepare,
    settle,
    shards_of,
    write_index,
    write_skipped,
)
from streaming_conversion.source import Source


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
        resizing: of larger pictures; None: all stay as they are.
        scratch: for parts on their way to object storage; None for the system's temporary folder.
    """

    processes: int = 1
    shard_bytes: int = 1 << 26
    part_size: int = 10_000
    decode: bool = True
    max_pixels: int = 178_956_970
    max_bad: float = 0.01
    overwrite: bool = False
    resizing: Resizing | None = None
    scratch: Path | None = None

    def deciding(self) -> dict[str, Any]:
        """What decides the bytes that are written."""
        settings = {
            "shard_bytes": self.shard_bytes,
            "part_size": self.part_size,
            "decode": self.decode,
            "max_pixels": self.max_pixels,
        }
        if self.resizing is None:
            return settings
        return settings | {RESIZE: self.resizing.shortest_side, "quality": self.resizing.quality}


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
        resized = f", {counts['resized']:,} of them resized" if "resized" in counts else ""
        size = f"{counts['bytes'] / 1e6:,.1f} MB in {counted(counts['shards'], 'shard')}"
        return f"{self.name}: {counted(counts['images'], 'image')}{resized}, {size}{skipped}; {pace}"


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
    return not differences(dataset, _describe(source, options))


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
        prepare(destination, _describe(source, options), options.overwrite)
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


def _convert(source: Source, destination: Destination, options: Options) -> Summary:
    began = time.monotonic()
    tasks = _tasks(source, destination, options)
    results = finished_parts([task.name for task in tasks], destination)
    before = sum(result.images for result in results.values())
    bad = sum(len(result.skipped) for result in results.values())

    def keep(task: PartTask, result: PartResult) -> None:
        settle(task.name, result, destination)
        results[task.name] = result
        _require_few_bad(destination, source, options, list(results.values()))

    with Progress(len(source.entries), before + bad) as progress:
        _require_few_bad(destination, source, options, list(results.values()))
        write_parts([task for task in tasks if task.name not in results], options.processes, progress, keep)
    dataset = _write_whole(source, destination, options, {task.name: results[task.name] for task in tasks})
    return Summary(destination.name, dataset, dataset.counts["images"] - before, time.monotonic() - began)


def _tasks(source: Source, destination: Destination, options: Options) -> list[PartTask]:
    columns = source.columns
    tasks = []
    for number, entries in enumerate(source.parts(options.part_size)):
        name = f"part-{number:06}"
        folder, remote = destination.part(name)
        how = (options.shard_bytes, options.decode, options.max_pixels, options.resizing)
        tasks.append(PartTask(name, entries, source.load, columns, folder, remote, *how))
    return tasks


def _require_few_bad(destination: Destination, source: Source, options: Options, results: Sequence[PartResult]) -> None:
    skipped = [record for result in results for record in result.skipped]
    if len(skipped) > options.max_bad * len(source.entries):
        write_skipped(results, destination)
        raise ConversionError(
            f"{len(skipped):,} of {counted(len(source.entries), 'image')} cannot be used so far, more than --max-bad "
            f"{options.max_bad:g}; all of them are in {destination.name}/{SKIPPED}; nothing was finished",
            [f"{record['source']}: {record['reason']}" for record in skipped],
        )


def _write_whole(
    source: Source, destination: Destination, options: Options, parts: dict[str, PartResult]
) -> DatasetFile:
    """Write what makes the parts a dataset."""
    results = list(parts.values())
    shards = shards_of(parts)
    write_skipped(results, destination)
    if not shards:
        raise ConversionError(f"no image of the source can be used; see {destination.name}/{SKIPPED}")
    begun = _describe(source, options)
    dataset = replace(
        begun, counts=begun.counts | _counts(source, options, results, shards), groups=_groups(source, options, results)
    )
    labelling_files = source.labelling.files if source.labelling else {}
    for name, content in {**source.files, **labelling_files}.items():
        destination.write(name, content)
    write_index(dataset, shards, destination)
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


def _counts(
    source: Source, options: Options, results: Sequence[PartResult], shards: Sequence[dict[str, Any]]
) -> dict[str, int]:
    counts = {
        "images": sum(result.images for result in results),
        "skipped": sum(len(result.skipped) for result in results),
        "shards": len(shards),
        "bytes": sum(shard["raw_data"]["bytes"] for shard in shards),
    }
    if options.resizing is not None:
        counts["resized"] = sum(result.resized for result in results)
    for column in (HASHTAGS, CAPTION):
        if column in source.columns:
            counts[f"without_{column}"] = sum(result.without[column] for result in results)
    if source.labelling is not None:
        counts["unlabelled"] = source.labelling.unlabelled
    return counts
