"""What became of the hashtags: `labels.txt` and `labels.png`."""

from __future__ import annotations

import heapq
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from maws_composer.data.classes import Classes, LabelClass

if TYPE_CHECKING:
    from streaming_conversion.labels import Ragged

SHOWN = 20
MANY = 10  # images with as many labels or more are told together


@dataclass
class Ranking:
    """Texts with a number of images; only the most frequent are kept."""

    count: int = 0
    images: int = 0
    _kept: list[tuple[int, str]] = field(default_factory=list)

    def add(self, text: str, images: int) -> None:
        self.count += 1
        self.images += images
        self._kept.append((-images, text))
        if len(self._kept) >= 100 * SHOWN:
            self._kept = heapq.nsmallest(SHOWN, self._kept)

    @property
    def first(self) -> list[tuple[str, int]]:
        """The most frequent, equal ones by text."""
        return [(text, -images) for images, text in sorted(self._kept)[:SHOWN]]


@dataclass(frozen=True)
class Fates:
    """What the hashtags lead to.

    Args:
        matched: to one of the classes.
        too_rare: to a class that was not taken, for --min-count or --max-classes.
        unmatched: to none.
        ambiguous: those that WordNet's order or --ambiguous decided, with their senses.
    """

    matched: Ranking = field(default_factory=Ranking)
    too_rare: Ranking = field(default_factory=Ranking)
    unmatched: Ranking = field(default_factory=Ranking)
    ambiguous: Ranking = field(default_factory=Ranking)


def follow(
    hashtags: Iterable[tuple[str, int]],
    matched: Mapping[str, int],
    key: Callable[[str], str | None] = lambda _: None,
    ambiguous: Callable[[str], str | None] = lambda _: None,
) -> Fates:
    """Follow each hashtag to its class.

    Args:
        hashtags: spellings and images.
        matched: the spellings that lead to one of the classes.
        key: a hashtag's class, whether it was taken or not; None for none.
        ambiguous: a hashtag's senses as text; None where it is not ambiguous.
    """
    fates = Fates()
    for tag, images in hashtags:
        if tag in matched:
            fates.matched.add(tag, images)
        elif key(tag) is not None:
            fates.too_rare.add(tag, images)
        else:
            fates.unmatched.add(tag, images)
        if (senses := ambiguous(tag)) is not None:
            fates.ambiguous.add(f"{tag}: {senses}", images)
    return fates


@dataclass(frozen=True)
class Report:
    """The figures of a labelling.

    Args:
        classes: that there are.
        labels: how many images have 0, 1, 2, … labels, the last as many or more. int64 (MANY + 1,)
        counts: images that have each class, by index; of these images, not of those that the classes were made from.
        fates: of the hashtags.
    """

    classes: Classes
    labels: NDArray[np.int64]
    counts: NDArray[np.int64]
    fates: Fates

    @classmethod
    def of(cls, classes: Classes, labels: Ragged, fates: Fates) -> Report:
        return cls(classes, labels.count_lengths(MANY), labels.count_values(len(classes)), fates)

    def text(self) -> str:
        """`labels.txt`."""
        return "\n".join([*self._summary(), *self._histogram(), *self._head_and_tail(), *self._hashtags()]) + "\n"

    def _summary(self) -> Iterator[str]:
        images = int(self.labels.sum())
        with_class = images - int(self.labels[0])
        matched, others = self.fates.matched, (self.fates.too_rare, self.fates.unmatched)
        distinct = matched.count + sum(each.count for each in others)
        uses = matched.images + sum(each.images for each in others)
        yield f"images                  {images:,}"
        yield f"  with a class          {with_class:,} ({_share(with_class, images)})"
        yield f"  labels of those       {self.counts.sum() / max(with_class, 1):.2f} on average"
        yield f"hashtags                {distinct:,} distinct, {uses:,} on images"
        share = _share(matched.images, uses)
        yield f"  that lead to a class  {matched.count:,} distinct, {matched.images:,} on images ({share})"
        yield f"  of a class too rare   {self.fates.too_rare.count:,} distinct"
        yield f"classes                 {len(self.classes):,}"

    def _histogram(self) -> Iterator[str]:
        yield "\nlabels per image"
        for number, images in enumerate(self.labels.tolist()):
            if images:
                name = f"{number}{'+' if number == MANY else ''}"
                yield f"  {name:>3}  {images:>12,}  {_share(images, int(self.labels.sum())):>6}"

    def _head_and_tail(self) -> Iterator[str]:
        order = np.argsort(-self.counts, kind="stable")
        head, tail = order[:SHOWN], order[SHOWN:][-SHOWN:]
        for title, indices in (("the most frequent classes", head), ("the rarest classes", tail)):
            if len(indices):
                yield f"\n{title}: images, class, hashtags"
                yield from (f"  {self.counts[i]:>12,}  {_class(self.classes.classes[i])}" for i in indices.tolist())

    def _hashtags(self) -> Iterator[str]:
        titles = (("hashtags without a class", self.fates.unmatched), ("ambiguous hashtags", self.fates.ambiguous))
        for title, ranking in titles:
            if ranking.count:
                yield f"\nthe most frequent {title} ({ranking.count:,} in all)"
                yield from (f"  {images:>12,}  {text}" for text, images in ranking.first)

    def png(self) -> bytes:
        """`labels.png`: how frequent the classes are, and how many an image has."""
        figure = Figure(figsize=(9, 3.4), layout="constrained", dpi=150)
        FigureCanvasAgg(figure)
        frequency, per_image = figure.subplots(1, 2)
        counts = np.sort(self.counts)[::-1]
        frequency.loglog(np.arange(1, len(counts) + 1), counts, linewidth=1.5, marker="." if len(counts) < 200 else "")
        frequency.set(xlabel="rank of the class", ylabel="images that have it")
        per_image.bar(np.arange(MANY + 1), self.labels / self.labels.sum() * 100)
        per_image.set_xticks(np.arange(MANY + 1), [*map(str, range(MANY)), f"{MANY}+"])
        per_image.set(xlabel="labels of an image", ylabel="images, %")
        for axes in (frequency, per_image):
            axes.grid(alpha=0.25, linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
        png = io.BytesIO()
        figure.savefig(png, format="png")
        return png.getvalue()


def _share(part: int, whole: int) -> str:
    return f"{part / max(whole, 1):.1%}".replace("%", " %")


def _class(each: LabelClass) -> str:
    hashtags = list(each.hashtags)
    more = f" and {len(hashtags) - 5} more" if len(hashtags) > 5 else ""
    synset = f" ({each.synset})" if each.synset and each.synset != each.name else ""
    return f"{each.name}{synset}: {', '.join(hashtags[:5])}{more}"
