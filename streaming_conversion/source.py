"""What a reader hands over: the samples of a dataset, in order, cut into parts that are converted independently."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from maws_composer.data.columns import CAPTION, ENCODINGS, HASHTAGS, ID, IMAGE


@dataclass(frozen=True, slots=True)
class Entry:
    """A sample without its picture.

    Args:
        key: what the source's `load` needs to find the picture.
        id: unique within the dataset.
        hashtags: None where the dataset has no such column; () for a sample without any.
        caption: the same; "" for a sample without one.
        stamp: changes when the picture does (size and time of a file, a version).
    """

    key: str
    id: str
    hashtags: tuple[str, ...] | None = None
    caption: str | None = None
    stamp: str = ""


@dataclass(frozen=True)
class Source:
    """A dataset to convert.

    Args:
        reader: name of the reader.
        provenance: goes into `dataset.json` as `source`.
        entries: in the order in which they are written; all with the same columns.
        load: key -> the encoded picture's bytes. Must be picklable; an error in it ends the conversion.
        settings: the reader's settings that decide which bytes are written.
    """

    reader: str
    provenance: dict[str, Any]
    entries: Sequence[Entry]
    load: Callable[[str], bytes]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> dict[str, str]:
        """Column -> MDS encoding, as the first entry has them."""
        names = [IMAGE, ID]
        if self.entries and self.entries[0].hashtags is not None:
            names.append(HASHTAGS)
        if self.entries and self.entries[0].caption is not None:
            names.append(CAPTION)
        return {name: ENCODINGS[name][0] for name in names}

    def digest(self) -> str:
        """Changes when a sample is added, taken away, moved or changed."""
        return _digest(self.entries)

    def parts(self, size: int) -> Iterator[Sequence[Entry]]:
        """The entries in runs of `size`: by number, so that they do not depend on the number of processes."""
        for begin in range(0, len(self.entries), size):
            yield self.entries[begin : begin + size]


def _digest(entries: Iterable[Entry]) -> str:
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(repr((entry.key, entry.id, entry.hashtags, entry.caption, entry.stamp)).encode("utf-8"))
    return digest.hexdigest()
