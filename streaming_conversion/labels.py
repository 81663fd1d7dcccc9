"""Images with the indices of their classes, in the order in which they are written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import overload

import numpy as np
from numpy.typing import NDArray

from maws_composer.data.classes import CLASSES_FILE, Classes
from streaming_conversion.groups import Grouping, plan_groups
from streaming_conversion.hashtags import distinct
from streaming_conversion.mds import Samples
from streaming_conversion.processes import each
from streaming_conversion.source import Entry, Labelling, Source

RUN = 20_000  # images that a process labels at a time


@dataclass(frozen=True)
class Ragged:
    """A list of numbers for each image.

    Args:
        ends: where each list ends in `values`; the first entry is 0. int64 (images + 1,)
        values: all lists behind one another. int32
    """

    ends: NDArray[np.int64]
    values: NDArray[np.int32]

    @classmethod
    def of(cls, lengths: NDArray[np.int64], values: NDArray[np.int32]) -> Ragged:
        return cls(np.concatenate(([0], np.cumsum(lengths))), values)

    def __len__(self) -> int:
        return len(self.ends) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.ends)

    def take(self, places: NDArray[np.int64]) -> Ragged:
        """The lists at these places, in this order."""
        lengths = self.lengths[places]
        ends = np.cumsum(lengths)
        shift = self.ends[places] - (ends - lengths)
        return Ragged.of(lengths, self.values[np.arange(lengths.sum()) + np.repeat(shift, lengths)])


@dataclass(frozen=True)
class Labelled(Sequence[Entry]):
    """Entries with labels; 8 bytes and 4 per label for each image, on top of what `entries` takes."""

    entries: Sequence[Entry]
    labels: Ragged

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Labelled: ...
    def __getitem__(self, index: int | slice) -> Entry | Labelled:
        if isinstance(index, slice):
            places = np.arange(*index.indices(len(self)))
            return Labelled(self.entries[index], self.labels.take(places))
        place = range(len(self))[index]
        labels = self.labels.values[self.labels.ends[place] : self.labels.ends[place + 1]]
        return replace(self.entries[place], labels=tuple(labels.tolist()))


def find_labels(source: Source, indices: Mapping[str, int], processes: int) -> Ragged:
    """Each image's class indices, sorted, each once.

    Args:
        source: with hashtags.
        indices: normalised hashtag -> class index.
        processes: how many; the result is the same.
    """
    lengths, values = zip(*each(_label_run, source.parts(RUN), processes, indices), strict=True)
    return Ragged.of(np.concatenate(lengths), np.concatenate(values))


def _label_run(indices: Mapping[str, int], entries: Sequence[Entry]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    labels = [sorted({indices[tag] for tag in distinct(entry.hashtags or ()) if tag in indices}) for entry in entries]
    return np.array(list(map(len, labels)), np.int64), np.array([index for row in labels for index in row], np.int32)


def labelled(
    source: Source, labels: Ragged, classes: Classes, grouping: Grouping | None, files: Mapping[str, bytes]
) -> Source:
    """The images of `source` that have a class, with their labels.

    Args:
        source: all images.
        labels: of all images.
        classes: what the labels mean.
        grouping: how images are put together; None: in the order of the source, without groups.
        files: name -> content of what is written beside `classes.json`.
    """
    places = np.flatnonzero(labels.lengths)
    counts = np.array([each.count for each in classes.classes], np.int64)
    rarest = np.minimum.reduceat(counts[labels.values], labels.ends[:-1][places])
    groups: list[int] = []
    if grouping is not None:
        order, groups = plan_groups(rarest, grouping)
        places, rarest = places[order], rarest[order]
    entries = source.entries
    taken = entries.take(places) if isinstance(entries, Samples) else [entries[place] for place in places.tolist()]
    settings = {
        "classes": hashlib.sha256(classes.to_json().encode()).hexdigest()[:16],
        "grouping": None if grouping is None else asdict(grouping),
    }
    files = {CLASSES_FILE: classes.to_json().encode()} | dict(files)
    labelling = Labelling(classes.digest(), groups, rarest / classes.images, files, len(source.entries) - len(places))
    return replace(
        source, entries=Labelled(taken, labels.take(places)), settings=source.settings | settings, labelling=labelling
    )
