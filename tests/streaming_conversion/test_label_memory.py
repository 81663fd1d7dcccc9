"""What labelling keeps in memory, and what it does with more than that."""

from __future__ import annotations

import pickle
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from maws_composer.data.classes import Classes, LabelClass
from streaming_conversion import tally
from streaming_conversion.groups import Grouping
from streaming_conversion.hashtags import as_written
from streaming_conversion.labels import find_labels, labelled
from streaming_conversion.mds import Samples
from streaming_conversion.source import Entry, Source
from streaming_conversion.tally import Tally
from tests.streaming_conversion.conftest import content
from tests.streaming_conversion.test_labels import label, photos, zipf

CLASSES, LABELS = 500, 4


class Drawn(Sequence[Entry]):
    """Images that are made when they are looked at, some without a class, the others with `LABELS`."""

    def __init__(self, numbers: range) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return Drawn(self.numbers[index])
        number = self.numbers[index]
        found = () if number % 50 == 0 else [(number * 7919 + 101 * i * i) % CLASSES for i in range(LABELS)]
        return Entry(str(number), str(number), tuple(f"t{each}" for each in found))


def test_labels_take_no_more_memory_than_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streaming_conversion.labels.RUN", 1_000)
    images = 100_000
    source = Source("label", {}, Drawn(range(images)), bytes)
    classes = Classes(tuple(LabelClass(f"t{i}", CLASSES - i) for i in range(CLASSES)), images)
    tracemalloc.start()
    try:
        labels = find_labels(source, {f"t{i}": i for i in range(CLASSES)}, as_written, 1)
        plan = labelled(source, labels, classes, Grouping(), {})
        parts = list(plan.parts(1_000))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(map(len, parts)) == images * 49 // 50 and len(labels.values) == LABELS * len(plan.entries)
    assert peak < images * (40 + 5 * LABELS)
    for entry in plan.entries[:1000:100]:
        assert [f"t{each}" for each in entry.labels or ()] == sorted(entry.hashtags or (), key=lambda tag: int(tag[1:]))


def test_another_process_gets_the_labels_of_its_part_only(tmp_path: Path) -> None:
    source = Source("label", {}, [*Drawn(range(1_000))], bytes)
    indices = {f"t{i}": i for i in range(CLASSES)}
    classes = Classes(tuple(LabelClass(f"t{i}", 1 + i % 7) for i in range(CLASSES)), 1_000)
    plan = labelled(source, find_labels(source, indices, as_written, 1), classes, Grouping(1, 1), {})
    part = plan.entries[300:320]
    sent = pickle.dumps(part)
    assert len(sent) < 20 * 150 and list(pickle.loads(sent)) == list(part)
    samples = Samples(tmp_path, range(10, 1_000, 3))
    assert samples.take(np.array([5, 2])).numbers.tolist() == [25, 16]  # type: ignore[union-attr]


def test_counts_that_do_not_fit_in_memory_are_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "MOST", 40)
    monkeypatch.setattr(tally, "FAN", 3)
    monkeypatch.setattr(tally, "BLOCK", 7)
    rng = np.random.default_rng(0)
    expected: Counter[str] = Counter()
    found = Tally(tmp_path)
    for _ in range(200):
        drawn = Counter(f"#{number}\n\ud83d" for number in rng.zipf(1.2, 20).tolist())
        expected.update(drawn)
        found.add(drawn)
    assert list(found) == list(found) == sorted(expected.items())
    assert found.most_common(5) == sorted(expected.items(), key=lambda item: (-item[1], item[0]))[:5]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert 0 < len(files) < 3 * 5  # of 60 or more that were written
    del found
    assert list(tmp_path.iterdir()) == []


def test_classes_are_the_same_however_much_fits_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = photos(tmp_path / "photos", zipf(200))
    (tmp_path / "table.tsv").write_text("t3\tt1\nt7\t\n")
    options = ["--canonical", "none", "--table", tmp_path / "table.tsv", "--min-count", 2, "--max-classes", 20]
    whole = content(label(source, tmp_path / "whole", *options))
    monkeypatch.setattr("streaming_conversion.counting.RUN", 10)
    monkeypatch.setattr(tally, "MOST", 8)
    assert content(label(source, tmp_path / "in-files", *options)) == whole
