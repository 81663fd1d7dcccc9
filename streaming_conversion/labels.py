"""Images with the indices of their classes, in the order in which they are written.

Billions of images have to fit: at most 40 bytes for each and 5 for each label are held at any time, and what would take
more is done for a run of images at a time.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from maws_composer.data.classes import CLASSES_FILE, Classes
from streaming_conversion.groups import Grouping, plan_groups
from streaming_conversion.hashtags import Spelling, distinct
from streaming_conversion.mds import Samples
from streaming_conversion.processes import Progress, each
from streaming_conversion.source import Entry, Labelling, Source

RUN = 20_000  # images that a process labels at a time


@dataclass(frozen=True)
class Ragged:
    """A list of small numbers for each image.

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

    def take(self, places: NDArray[np.int64]) -> Ragged:
        """The lists at these places, in this order."""
        lengths = self.ends[places + 1] - self.ends[places]
        ends = np.cumsum(lengths)
        shift = self.ends[places] - (ends - lengths)
        return Ragged.of(lengths, self.values[np.arange(lengths.sum()) + np.repeat(shift, lengths)])

    def count_values(self, size: int) -> NDArray[np.int64]:
        """How often each number below `size` comes. int64 (size,)"""
        runs = (self.values[begin : begin + RUN] for begin in range(0, len(self.values), RUN))
        return sum((np.bincount(run, minlength=size) for run in runs), np.zeros(size, np.int64))

    def count_lengths(self, most: int) -> NDArray[np.int64]:
        """How many lists have each length, those of `most` and more together. int64 (most + 1,)"""
        runs = (np.diff(self.ends[begin : begin + RUN + 1]) for begin in range(0, len(self), RUN))
        counts = (np.bincount(np.minimum(run, most), minlength=most + 1) for run in runs)
        return sum(counts, np.zeros(most + 1, np.int64))


@dataclass(frozen=True)
class Labelled(Sequence[Entry]):
    """Some entries of a source in another order, with labels.

    Args:
        entries: all of the source.
        labels: of all entries.
        places: which of them. int64
    """

    entries: Sequence[Entry]
    labels: Ragged
    places: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Labelled: ...
    def __getitem__(self, index: int | slice) -> Entry | Labelled:
        if isinstance(index, slice):
            return replace(self, places=self.places[index])
        place = int(self.places[index])
        labels = self.labels.values[self.labels.ends[place] : self.labels.ends[place + 1]]
        return replace(self.entries[place], labels=tuple(labels.tolist()))

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process gets these entries and labels, and not the whole source's."""
        entries = self.entries
        taken = entries.take(self.places) if isinstance(entries, Samples) else [entries[i] for i in self.places]
        return Labelled, (taken, self.labels.take(self.places), np.arange(len(self)))


def find_labels(source: Source, indices: Mapping[str, int], spell: Spelling, processes: int) -> Ragged:
    """Each image's class indices, sorted, each once.

    Args:
        source: with hashtags.
        indices: a hashtag's spelling -> class index.
        spell: brings a raw hashtag to its spelling.
        processes: how many; the result is the same.
    """
    ends = np.zeros(len(source.entries) + 1, np.int64)
    values = array("i")  # grows where it is; arrays put behind one another at the end would be there twice
    done = 0
    with Progress(len(source.entries), 0, "labels", delay=1) as progress:
        for lengths, found in each(_label_run, source.parts(RUN), processes, (indices, spell)):
            ends[done + 1 : done + 1 + len(lengths)] = ends[done] + np.cumsum(lengths)
            values.frombytes(found.tobytes())
            done += len(lengths)
            progress.show(done)
    return Ragged(ends, np.asarray(values))


def _label_run(
    shared: tuple[Mapping[str, int], Spelling], entries: Sequence[Entry]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    indices, spell = shared
    tags = (distinct(entry.hashtags or (), spell) for entry in entries)
    labels = [sorted({indices[tag] for tag in of_image if tag in indices}) for of_image in tags]
    return np.array(list(map(len, labels)), np.int64), np.array([index for row in labels for index in row], np.int32)


def labelled(
    source: Source, labels: Ragged, classes: Classes, grouping: Grouping | None, files: Mapping[str, bytes]
) -> Source:
    """The images of `source` that have a class, with their labels.

    Args:
        source: all images.
        labels: of all images.
        classes: what the labels mean, and how frequent they are.
        grouping: how images are put together; None: in the order of the source, without groups.
        files: name -> content of what is written beside `classes.json`.
    """
    counts, ranks = np.unique(np.array([each.count for each in classes.classes], np.int64), return_inverse=True)
    places = np.flatnonzero(labels.ends[1:] != labels.ends[:-1])
    rarest = np.concatenate([np.empty(0, np.int32), *_rarest(labels, places, ranks.astype(np.int32))])
    groups: list[int] = []
    if grouping is not None:
        order, groups = plan_groups(rarest, counts, grouping)
        places, rarest = places[order], rarest[order]
    settings = {
        "classes": hashlib.sha256(classes.to_json().encode()).hexdigest()[:16],
        "grouping": None if grouping is None else asdict(grouping),
    }
    files = {CLASSES_FILE: classes.to_json().encode()} | dict(files)
    unlabelled = len(source.entries) - len(places)
    labelling = Labelling(classes.digest(), groups, rarest, counts / classes.images, files, unlabelled)
    entries = Labelled(source.entries, labels, places)
    return replace(source, entries=entries, settings=source.settings | settings, labelling=labelling)


def _rarest(labels: Ragged, places: NDArray[np.int64], ranks: NDArray[np.int32]) -> Iterator[NDArray[np.int32]]:
    """The smallest rank that an image's labels have, for a run of images at a time.

    Args:
        labels: of all images.
        places: of those that have any, ascending.
        ranks: of each class.
    """
    for begin in range(0, len(places), RUN):
        run = places[begin : begin + RUN]
        first, last = labels.ends[run[0]], labels.ends[run[-1] + 1]
        yield np.minimum.reduceat(ranks[labels.values[first:last]], labels.ends[run] - first)
