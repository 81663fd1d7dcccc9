"""Pass 1 of labelling: how many images have each hashtag and each class, and which classes there shall be.

Counts are exact. Each process counts a run of images at a time and hands over its counts; what is kept grows with the
number of distinct hashtags, not with the number of images. Sums do not depend on who counted what, so the classes are
the same for any number of processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from maws_composer.data.classes import Classes, LabelClass
from streaming_conversion.canonical import SYNSET, Canonical
from streaming_conversion.hashtags import distinct
from streaming_conversion.processes import each
from streaming_conversion.source import Entry, Source
from streaming_conversion.wordnet import Synset

RUN = 20_000  # images that a process counts at a time


@dataclass
class Counts:
    """Images per normalised hashtag and per class. A hashtag that an image has twice counts once, as does a class."""

    images: int = 0
    hashtags: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)

    def add(self, other: Counts) -> None:
        self.images += other.images
        self.hashtags.update(other.hashtags)
        self.classes.update(other.classes)


def count(source: Source, canonical: Canonical, processes: int) -> Counts:
    """Count the hashtags and classes of all images of a source."""
    total = Counts()
    for counts in each(_count_run, source.parts(RUN), processes, canonical):
        total.add(counts)
    return total


def _count_run(canonical: Canonical, entries: Sequence[Entry]) -> Counts:
    counts = Counts(len(entries))
    for entry in entries:
        tags = distinct(entry.hashtags or ())
        counts.hashtags.update(tags)
        counts.classes.update({key for tag in tags if (key := canonical.key(tag)) is not None})
    return counts


def choose(counts: Counts, min_count: int, max_classes: int | None) -> list[str]:
    """Keys of the classes: at least `min_count` images, the most frequent first, equal ones by key."""
    frequent = [(-images, key) for key, images in counts.classes.items() if images >= min_count]
    return [key for _, key in sorted(frequent)[:max_classes]]


def describe_classes(
    keys: Sequence[str],
    counts: Counts,
    canonical: Canonical,
    synset: Callable[[str], Synset] | None,
    images: int,
    settings: Mapping[str, Any],
) -> Classes:
    """`classes.json` of the chosen classes.

    Args:
        keys: see `choose`.
        counts: of all hashtags and classes.
        canonical: says which hashtags were merged.
        synset: looks up a synset; None without WordNet.
        images: how many have at least one of the classes.
        settings: how the classes were made.
    """
    merged: dict[str, dict[str, int]] = {key: {} for key in keys}
    for tag, number in sorted(counts.hashtags.items(), key=lambda item: (-item[1], item[0])):
        key = canonical.key(tag)
        if key in merged:
            merged[key][tag] = number
    classes = []
    for key in keys:
        known = synset(key) if synset and SYNSET.fullmatch(key) else None
        classes.append(
            LabelClass(
                name=known.lemmas[0] if known else key,
                count=counts.classes[key],
                synset=known.id if known else key if SYNSET.fullmatch(key) else None,
                gloss=known.gloss if known else "",
                hashtags=merged[key],
            )
        )
    return Classes(tuple(classes), images, dict(settings))
