"""What an interrupted conversion left in a destination, and how the same command goes on with it.

Each finished part has a marker in `.conversion/`; `index.json`, which readers look for, is written last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from maws_composer.data.columns import DATASET_FILE, DatasetFile
from streaming_conversion.destination import INDEX, STATE, Destination
from streaming_conversion.parts import PartResult
from streaming_conversion.problems import ConversionError

SETTINGS = f"{STATE}/settings.json"
SKIPPED = "skipped.jsonl"


def prepare(destination: Destination, dataset: DatasetFile, overwrite: bool) -> None:
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
    if changed := differences(DatasetFile.from_json(begun), dataset):
        raise ConversionError(
            f"{destination.name} holds the beginning of another conversion; go on with the same source and settings, "
            "or begin anew with --overwrite",
            changed,
        )


def differences(begun: DatasetFile, now: DatasetFile) -> list[str]:
    """What decides the bytes and is not the same."""
    then_values, now_values = _deciding(begun), _deciding(now)
    found = [
        f"{key} was {then_values.get(key)}, is {now_values.get(key)}"
        for key in sorted(then_values.keys() | now_values.keys())
        if then_values.get(key) != now_values.get(key)
    ]
    if begun.source_digest != now.source_digest:
        then, current = (each.counts.get("source_images", 0) for each in (begun, now))
        numbers = f"{then:,} images then, {current:,} now" if then != current else "as many images, not the same"
        found.append(f"the source has changed: {numbers}")
    return found


def finished_parts(names: Sequence[str], destination: Destination) -> dict[str, PartResult]:
    """The parts that have a marker, and the files which it names."""

    def result(name: str) -> PartResult | None:
        marker = destination.read(_marker(name))
        if marker is None:
            return None
        found = PartResult(**json.loads(marker))
        files = {f"{name}/{info['basename']}": info["bytes"] for info in (s["raw_data"] for s in found.shards)}
        return found if destination.holds(files) else None

    with ThreadPoolExecutor(16) as pool:  # one request each, in object storage
        found = pool.map(result, names)
        return {name: each for name, each in zip(names, found, strict=True) if each is not None}


def settle(name: str, result: PartResult, destination: Destination) -> None:
    """Make a written part count."""
    destination.settle_part(name)
    destination.write(_marker(name), json.dumps(result.to_json()).encode())


def write_skipped(results: Sequence[PartResult], destination: Destination) -> None:
    """Name what was left out, one JSON object per line."""
    records = [record for result in results for record in result.skipped]
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    destination.write(SKIPPED, lines.encode())


def shards_of(parts: Mapping[str, PartResult]) -> list[dict[str, Any]]:
    """The entries of all parts in the index of the dataset, made from those in the indexes of the parts."""
    return [
        shard | {"raw_data": shard["raw_data"] | {"basename": f"{name}/{shard['raw_data']['basename']}"}}
        for name, result in parts.items()
        for shard in result.shards
    ]


def write_index(dataset: DatasetFile, shards: Sequence[dict[str, Any]], destination: Destination) -> None:
    """Write what makes shards a dataset; the index last, since it is what readers look for."""
    destination.write(DATASET_FILE, dataset.to_json().encode())
    destination.write(INDEX, json.dumps({"version": 2, "shards": shards}, sort_keys=True).encode())
    destination.finish()


def _deciding(dataset: DatasetFile) -> dict[str, Any]:
    said = {"reader": dataset.reader, "converter": dataset.converter_version, "encoder": dataset.encoder}
    return said | {"columns": sorted(dataset.columns)} | dataset.settings


def _marker(name: str) -> str:
    return f"{STATE}/{name}.json"
