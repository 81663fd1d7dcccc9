"""Small sets of labelled shards, in groups by the frequency of the rarest class, as labelling writes them."""

from __future__ import annotations

import json
from collections import Counter
from itertools import groupby
from pathlib import Path

import numpy as np
from streaming import MDSWriter

from maws_composer.data.classes import CLASSES_FILE, Classes, LabelClass
from maws_composer.data.columns import DATASET_FILE, DatasetFile, Group
from tests.data.shards import png

COLUMNS = {"image": "bytes", "id": "str", "labels": "ndarray:int32"}
Labels = list[list[int]]


def long_tailed(count: int, num_classes: int, seed: int = 0) -> Labels:
    """One to three classes for each image, class c about 1 / (c + 1) as frequent as class 0; none missing."""
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, num_classes + 1)
    drawn = [
        rng.choice(num_classes, rng.integers(1, 4), replace=False, p=weights / weights.sum()) for _ in range(count)
    ]
    for number in range(num_classes):
        drawn[number] = np.array([number])
    return _by_frequency([sorted(labels.tolist()) for labels in drawn])


def classes_of(labels: Labels, name: str = "class") -> Classes:
    """Classes whose counts are those of `labels`."""
    counts = Counter(label for of_image in labels for label in of_image)
    return Classes(tuple(LabelClass(f"{name} {i}", counts[i]) for i in range(len(counts))), len(labels))


def write_labelled(folder: Path, labels: Labels, groups: int = 4, per_shard: int = 20) -> Path:
    """Shards of pictures, `classes.json` and `dataset.json`; picture i has the id i and the labels `labels[i]`."""
    classes = classes_of(labels)
    rarest = [classes.classes[max(of_image)].count / len(labels) for of_image in labels]
    order = sorted(range(len(labels)), key=lambda i: -rarest[i])
    group_of = {frequency: n * groups // len(set(rarest)) for n, frequency in enumerate(sorted(set(rarest))[::-1])}
    written, shards = [], []
    for number, images in groupby(order, key=lambda i: group_of[rarest[i]]):
        members = list(images)
        index = _write_shards(folder, f"group{number}", {i: labels[i] for i in members}, per_shard)
        shards += index
        frequencies = np.array([rarest[i] for i in members])
        mean = float((frequencies**-0.5).mean())
        written.append(Group(len(index), len(members), float(frequencies.min()), float(frequencies.max()), mean))
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": shards}))
    (folder / CLASSES_FILE).write_text(classes.to_json())
    dataset = DatasetFile("test", "0", COLUMNS, {}, "", {}, classes=classes.digest(), groups=written)
    (folder / DATASET_FILE).write_text(dataset.to_json())
    return folder


def _write_shards(folder: Path, name: str, labels: dict[int, list[int]], per_shard: int) -> list[dict]:
    row = 1200  # more than a picture takes; text after a PNG's end is ignored
    with MDSWriter(out=str(folder / name), columns=COLUMNS, hashes=["sha1"], size_limit=per_shard * row) as writer:
        for i, of_image in labels.items():
            image = png(i).ljust(row - 60)
            writer.write({"image": image, "id": str(i), "labels": np.array(of_image, np.int32)})
    shards = json.loads((folder / name / "index.json").read_text())["shards"]
    (folder / name / "index.json").unlink()
    for shard in shards:
        shard["raw_data"]["basename"] = f"{name}/{shard['raw_data']['basename']}"
    return shards


def _by_frequency(labels: Labels) -> Labels:
    """Number the classes anew, from the most frequent to the rarest."""
    counts = Counter(label for of_image in labels for label in of_image)
    new = {old: number for number, (old, _) in enumerate(sorted(counts.items(), key=lambda item: (-item[1], item[0])))}
    return [sorted(new[label] for label in of_image) for of_image in labels]
