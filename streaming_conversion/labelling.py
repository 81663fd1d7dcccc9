"""The two ways to labels: make the classes from the hashtags, or take those of another dataset."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from maws_composer.data.classes import Classes
from streaming_conversion.canonical import Canonical
from streaming_conversion.counting import Counts, choose, count, describe_classes
from streaming_conversion.groups import Grouping
from streaming_conversion.labels import Ragged, find_labels, labelled
from streaming_conversion.problems import ConversionError, counted
from streaming_conversion.report import Report
from streaming_conversion.source import Source
from streaming_conversion.wordnet import WordNet

REPORT, PLOT = "labels.txt", "labels.png"


def from_hashtags(
    source: Source,
    canonical: Canonical,
    wordnet: WordNet | None,
    limits: tuple[int, int | None],
    settings: Mapping[str, Any],
    grouping: Grouping | None,
    processes: int,
) -> Source:
    """Make classes from a source's hashtags, and label its images.

    Args:
        source: with hashtags.
        canonical: which class a hashtag belongs to.
        wordnet: for names and glosses; None without.
        limits: images that a class has at least, and how many classes there are at most.
        settings: go into `classes.json`.
        grouping: see `labelled`.
        processes: how many; the result is the same.

    Raises:
        ConversionError: no image has a class.
    """
    counts = count(source, canonical, processes)
    keys = choose(counts, *limits)
    place = {key: index for index, key in enumerate(keys)}
    canonical_keys = {tag: key for tag in counts.hashtags if (key := canonical.key(tag)) is not None}
    indices = {tag: place[key] for tag, key in canonical_keys.items() if key in place}
    labels = _find(source, indices, counts, processes)
    with_class = int((labels.lengths > 0).sum())
    classes = describe_classes(keys, counts, canonical, wordnet.synset if wordnet else None, with_class, settings)

    def ambiguous(tag: str) -> str | None:
        if wordnet is None or not canonical.is_ambiguous(tag):
            return None
        senses = canonical.senses[tag]
        taken = canonical.key(tag)
        name = f"{taken}, {wordnet.synset(taken).gloss:.60}" if taken else "dropped"
        return f"{name} (of {counted(len(senses), 'sense')})"

    too_rare = frozenset(canonical_keys.keys() - indices.keys())
    report = _report(classes, labels, counts, indices, too_rare=too_rare, ambiguous=ambiguous)
    return labelled(source, labels, classes, grouping, report)


def from_classes(source: Source, classes: Classes, processes: int) -> Source:
    """Label a source's images with the classes of another dataset, in the order of the source.

    Raises:
        ConversionError: no image has a class.
    """
    indices = {tag: index for index, each in enumerate(classes.classes) for tag in each.hashtags}
    counts = count(source, Canonical("table"), processes)
    labels = _find(source, indices, counts, processes)
    return labelled(source, labels, classes, None, _report(classes, labels, counts, indices))


def _find(source: Source, indices: Mapping[str, int], counts: Counts, processes: int) -> Ragged:
    """The labels of all images.

    Raises:
        ConversionError: there are none.
    """
    labels = find_labels(source, indices, processes)
    if not len(labels.values):
        frequent = [f"#{tag}: {counted(number, 'image')}" for tag, number in counts.hashtags.most_common(10)]
        raise ConversionError(
            f"none of {counted(counts.images, 'image')} has a class; see to --canonical, --table and --min-count, "
            "or --classes. The most frequent hashtags are",
            frequent,
        )
    return labels


def _report(
    classes: Classes, labels: Ragged, counts: Counts, indices: Mapping[str, int], **more: Any
) -> dict[str, bytes]:
    per_class = np.bincount(labels.values, minlength=len(classes))
    report = Report(classes, labels.lengths, per_class, counts.hashtags, indices, **more)
    text = report.text()
    print(text[: text.index("\n\n")], file=sys.stderr)
    return {REPORT: text.encode(), PLOT: report.png()}
