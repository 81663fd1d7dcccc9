"""Pass 1 of labelling: how many images have each hashtag and each class, and which classes there shall be.

Counts are exact. Each process counts a run of images at a time and hands over its counts; what is kept in memory is
bounded, whatever the number of images and of distinct hashtags (see `Tally`). Sums do not depend on who counted what,
so the classes are the same for any number of processes.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maws_composer.data.classes import Classes, LabelClass
from streaming_conversion.canonical import Canonical
from streaming_conversion.hashtags import distinct
from streaming_conversion.processes import Progress, each
from streaming_conversion.source import Entry, Source
from streaming_conversion.tally import Tally
from streaming_conversion.wordnet import Synset

RUN = 20_000  # images that a process counts at a time


@dataclass
class Counts:
    """Images per hashtag and per class. A hashtag that an image has twice counts once, as does a class.

    Args:
        images: all.
        hashtags: of each spelling.
        shared: of each class that several hashtags may lead to; any other has as many as its hashtag.
    """

    images: int
    hashtags: Tally
    shared: Counter[str]

    def of_classes(self, canonical: Canonical) -> Iterator[tuple[str, int]]:
        """Key of each class, and its images."""
        yield from self.shared.items()
        yield from ((tag, images) for tag, images in self.hashtags if canonical.is_own(tag))


def count(source: Source, canonical: Canonical, processes: int, scratch: Path | None = None) -> Counts:
    """Count the hashtags and classes of all images of a source.

    Args:
        source: with hashtags.
        canonical: which class a hashtag belongs to.
        processes: how many; the result is the same.
        scratch: see `Tally`.
    """
    total = Counts(0, Tally(scratch), Counter())
    with Progress(len(source.entries), 0, "hashtags", delay=1) as progress:
        for images, hashtags, shared in each(_count_run, source.parts(RUN), processes, canonical):
            total.images += images
            total.hashtags.add(hashtags)
            total.shared.update(shared)
            progress.show(total.images)
    return total


def _count_run(canonical: Canonical, entries: Sequence[Entry]) -> tuple[int, Counter[str], Counter[str]]:
    hashtags: Counter[str] = Counter()
    shared: Counter[str] = Counter()
    for entry in entries:
        tags = distinct(entry.hashtags or (), canonical.spell)
        hashtags.update(tags)
        shared.update({key for tag in tags if not canonical.is_own(tag) and (key := canonical.key(tag)) is not None})
    return len(entries), hashtags, shared


def choose(counts: Counts, canonical: Canonical, min_count: int, max_classes: int | None) -> list[str]:
    """Keys of the classes: at least `min_count` images, the most frequent first, equal ones by key."""
    frequent = ((-images, key) for key, images in counts.of_classes(canonical) if images >= min_count)
    chosen = sorted(frequent) if max_classes is None else heapq.nsmallest(max_classes, frequent)
    return [key for _, key in chosen]


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
    chosen = set(keys)
    merged: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for tag, number in counts.hashtags:
        if (key := canonical.key(tag)) in chosen:
            merged[key].append((tag, number))
    classes = []
    for key in keys:
        hashtags = dict(sorted(merged.pop(key), key=lambda item: (-item[1], item[0])))
        known = synset(key) if synset and canonical.is_synset(key) else None
        classes.append(
            LabelClass(
                name=known.lemmas[0] if known else key,
                count=hashtags[key] if canonical.is_own(key) else counts.shared[key],
                synset=key if canonical.is_synset(key) else None,
                gloss=known.gloss if known else "",
                hashtags=hashtags,
            )
        )
    return Classes(tuple(classes), images, dict(settings))
