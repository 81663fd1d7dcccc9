"""The two ways to labels: make the classes from the hashtags, or take those of another dataset."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maws_composer.data.classes import Classes
from streaming_conversion.canonical import Canonical
from streaming_conversion.counting import Counts, choose, count, describe_classes
from streaming_conversion.groups import Grouping
from streaming_conversion.hashtags import RAW, as_written, normalise
from streaming_conversion.labels import Ragged, find_labels, labelled
from streaming_conversion.problems import ConversionError, counted
from streaming_conversion.report import Report, follow
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
    scratch: Path | None = None,
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
        scratch: for counts that do not fit in memory; None for the system's temporary folder.

    Raises:
        ConversionError: no image has a class.
    """
    counts = count(source, canonical, processes, scratch)
    keys = choose(counts, canonical, *limits)
    place = {key: index for index, key in enumerate(keys)}
    indices = {tag: place[key] for tag, _ in counts.hashtags if (key := canonical.key(tag)) in place}
    labels = _find(source, indices, counts, canonical, processes)
    with_class = int(labels.count_lengths(1)[1])
    classes = describe_classes(keys, counts, canonical, wordnet.synset if wordnet else None, with_class, settings)
    _say_apart(canonical, indices)

    def ambiguous(tag: str) -> str | None:
        if wordnet is None or not canonical.is_ambiguous(tag):
            return None
        senses = canonical.senses[tag]
        taken = canonical.key(tag)
        name = f"{taken}, {wordnet.synset(taken).gloss:.60}" if taken else "dropped"
        return f"{name} (of {counted(len(senses), 'sense')})"

    fates = follow(counts.hashtags, indices, canonical.key, ambiguous)
    return labelled(source, labels, classes, grouping, _report(Report.of(classes, labels, fates)))


def from_classes(
    source: Source, classes: Classes, grouping: Grouping | None, processes: int, scratch: Path | None = None
) -> Source:
    """Label a source's images with the classes of another dataset.

    Args:
        source: with hashtags, which are spelled as those of `classes` were.
        classes: with the counts of that other dataset, which also make the groups.
        grouping: see `labelled`.
        processes: how many; the result is the same.
        scratch: for counts that do not fit in memory; None for the system's temporary folder.

    Raises:
        ConversionError: no image has a class.
    """
    canonical = Canonical("table", spell=as_written if classes.settings.get("spelling") == RAW else normalise)
    indices: dict[str, int] = {}
    for index, each in enumerate(classes.classes):
        for tag in each.hashtags:
            indices.setdefault(canonical.spell(tag), index)  # an earlier version may have spelled it otherwise
    counts = count(source, canonical, processes, scratch)
    labels = _find(source, indices, counts, canonical, processes)
    fates = follow(counts.hashtags, indices)
    return labelled(source, labels, classes, grouping, _report(Report.of(classes, labels, fates)))


def _find(source: Source, indices: Mapping[str, int], counts: Counts, canonical: Canonical, processes: int) -> Ragged:
    """The labels of all images.

    Raises:
        ConversionError: there are none.
    """
    labels = find_labels(source, indices, canonical.spell, processes)
    if not len(labels.values):
        frequent = [f"#{tag}: {counted(number, 'image')}" for tag, number in counts.hashtags.most_common(10)]
        raise ConversionError(
            f"none of {counted(counts.images, 'image')} has a class; see to --canonical, --table and --min-count, "
            "or --classes. The most frequent hashtags are",
            frequent,
        )
    return labels


def _say_apart(canonical: Canonical, indices: Mapping[str, int]) -> None:
    """Where each hashtag is a class, a class "Cat" of the table does not take in the class of #cat."""
    for name in sorted(canonical.names):
        tag = canonical.spell(name)
        if tag != name and canonical.is_own(tag) and tag in indices:
            print(f"--table: {name} and {tag} are two classes; a class {tag} in the table is one with #{tag}",
                  file=sys.stderr)  # fmt: skip


def _report(report: Report) -> dict[str, bytes]:
    text = report.text()
    print(text[: text.index("\n\n")], file=sys.stderr)
    return {REPORT: text.encode(), PLOT: report.png()}
