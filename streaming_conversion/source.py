"""What a reader hands over: the samples of a dataset, in order, cut into parts that are converted independently."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maws_composer.data.columns import CAPTION, ENCODINGS, HASHTAGS, ID, IMAGE, LABELS
from streaming_conversion.groups import runs

LABELS_ENCODING = "ndarray:int32"


@dataclass(frozen=True, slots=True)
class Entry:
    """A sample without its picture.

    Args:
        key: what the source's `load` needs to find the picture.
        id: unique within the dataset.
        hashtags: None where the dataset has no such column; () for a sample without any.
        caption: the same; "" for a sample without one.
        stamp: changes when the picture does (size and time of a file, a version).
        labels: class indices, at least one; None where the dataset has no such column.
    """

    key: str
    id: str
    hashtags: tuple[str, ...] | None = None
    caption: str | None = None
    stamp: str = ""
    labels: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Labelling:
    """What the labels of a source mean, and which of its images are repeated alike.

    Args:
        classes: `Classes.digest()`.
        groups: how many entries each group has, one group behind the other; [] without groups.
        rarest: for each entry, the place in `frequencies` of its rarest class. int32 (entries,)
        frequencies: that a class may have, ascending. float64
        files: name -> content of what is written beside `dataset.json`.
        unlabelled: images that were left out because they have no class.
    """

    classes: str
    groups: Sequence[int]
    rarest: NDArray[np.int32]
    frequencies: NDArray[np.float64]
    files: Mapping[str, bytes]
    unlabelled: int


@dataclass(frozen=True)
class Source:
    """A dataset to convert.

    Args:
        reader: name of the reader.
        provenance: goes into `dataset.json` as `source`.
        entries: in the order in which they are written; all with the same columns.
        load: key -> the encoded picture's bytes. Must be picklable; an error in it ends the conversion.
        settings: the reader's settings that decide which bytes are written.
        labelling: of entries with labels.
        files: name -> content of what else is written beside `dataset.json`.
        stamp: stands for the entries: changes when any of them does; "" where they shall be looked at one by one.
    """

    reader: str
    provenance: dict[str, Any]
    entries: Sequence[Entry]
    load: Callable[[str], bytes]
    settings: dict[str, Any] = field(default_factory=dict)
    labelling: Labelling | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    stamp: str = ""

    @property
    def columns(self) -> dict[str, str]:
        """Column -> MDS encoding, as the first entry has them."""
        names = [IMAGE, ID]
        first = self.entries[0] if self.entries else None
        if first and first.hashtags is not None:
            names.append(HASHTAGS)
        if first and first.caption is not None:
            names.append(CAPTION)
        columns = {name: ENCODINGS[name][0] for name in names}
        return columns | ({LABELS: LABELS_ENCODING} if first and first.labels is not None else {})

    def digest(self) -> str:
        """Changes when a sample is added, taken away, moved or changed."""
        return self.stamp or _digest(self.entries)

    def runs(self, size: int) -> list[slice]:
        """Runs of up to `size` entries: by number, so that they do not depend on the number of processes.

        A run is of one group.
        """
        groups = self.labelling.groups if self.labelling else []
        return runs(groups or [len(self.entries)], size)

    def parts(self, size: int) -> Iterator[Sequence[Entry]]:
        """The entries of each run."""
        for run in self.runs(size):
            yield self.entries[run]


def _digest(entries: Iterable[Entry]) -> str:
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(repr((entry.key, entry.id, entry.hashtags, entry.caption, entry.stamp)).encode("utf-8"))
    return digest.hexdigest()
