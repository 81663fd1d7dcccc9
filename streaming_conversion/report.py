"""What became of the hashtags: `labels.txt` and `labels.png`."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from maws_composer.data.classes import Classes, LabelClass

SHOWN = 20
_MANY = 10  # images with as many labels or more are told together


@dataclass(frozen=True)
class Report:
    """The figures of a labelling.

    Args:
        classes: that there are.
        labels: per image, how many it has; int64 (images,)
        counts: images that have each class, by index; of these images, not of those that the classes were made from.
        hashtags: normalised hashtag -> images.
        matched: the hashtags that lead to one of the classes.
        too_rare: hashtags that lead to a class that was not taken, for --min-count or --max-classes.
        ambiguous: hashtag -> its senses as text, for those that WordNet's order or --ambiguous decided.
    """

    classes: Classes
    labels: NDArray[np.int64]
    counts: NDArray[np.int64]
    hashtags: Mapping[str, int]
    matched: Mapping[str, int]
    too_rare: frozenset[str] = frozenset()
    ambiguous: Callable[[str], str | None] = field(default=lambda _: None)

    def text(self) -> str:
        """`labels.txt`."""
        return "\n".join([*self._summary(), *self._histogram(), *self._head_and_tail(), *self._hashtags()]) + "\n"

    def _summary(self) -> Iterator[str]:
        with_class = int((self.labels > 0).sum())
        matched = [number for tag, number in self.hashtags.items() if tag in self.matched]
        uses = sum(self.hashtags.values())
        yield f"images                  {len(self.labels):,}"
        yield f"  with a class          {with_class:,} ({_share(with_class, len(self.labels))})"
        yield f"  labels of those       {self.labels.sum() / max(with_class, 1):.2f} on average"
        yield f"hashtags                {len(self.hashtags):,} distinct, {uses:,} on images"
        share = _share(sum(matched), uses)
        yield f"  that lead to a class  {len(matched):,} distinct, {sum(matched):,} on images ({share})"
        yield f"  of a class too rare   {len(self.too_rare):,} distinct"
        yield f"classes                 {len(self.classes):,}"

    def _histogram(self) -> Iterator[str]:
        yield "\nlabels per image"
        found = Counter(np.minimum(self.labels, _MANY).tolist())
        for number, images in sorted(found.items()):
            name = f"{number}{'+' if number == _MANY else ''}"
            yield f"  {name:>3}  {images:>12,}  {_share(images, len(self.labels)):>6}"

    def _head_and_tail(self) -> Iterator[str]:
        order = np.argsort(-self.counts, kind="stable")
        head, tail = order[:SHOWN], order[SHOWN:][-SHOWN:]
        for title, indices in (("the most frequent classes", head), ("the rarest classes", tail)):
            if len(indices):
                yield f"\n{title}: images, class, hashtags"
                yield from (f"  {self.counts[i]:>12,}  {_class(self.classes.classes[i])}" for i in indices.tolist())

    def _hashtags(self) -> Iterator[str]:
        ranked = sorted(self.hashtags.items(), key=lambda item: (-item[1], item[0]))
        unmatched = [item for item in ranked if item[0] not in self.matched and item[0] not in self.too_rare]
        ambiguous = ((tag, images, self.ambiguous(tag)) for tag, images in ranked)
        senses = [(f"{tag}: {text}", images) for tag, images, text in ambiguous if text]
        for title, rows in (("hashtags without a class", unmatched), ("ambiguous hashtags", senses)):
            if rows:
                yield f"\nthe most frequent {title} ({len(rows):,} in all)"
                yield from (f"  {images:>12,}  {text}" for text, images in rows[:SHOWN])

    def png(self) -> bytes:
        """`labels.png`: how frequent the classes are, and how many an image has."""
        figure = Figure(figsize=(9, 3.4), layout="constrained", dpi=150)
        FigureCanvasAgg(figure)
        frequency, per_image = figure.subplots(1, 2)
        counts = np.sort(self.counts)[::-1]
        frequency.loglog(np.arange(1, len(counts) + 1), counts, linewidth=1.5, marker="." if len(counts) < 200 else "")
        frequency.set(xlabel="rank of the class", ylabel="images that have it")
        heights = np.bincount(np.minimum(self.labels, _MANY), minlength=_MANY + 1) / len(self.labels)
        per_image.bar(np.arange(_MANY + 1), heights * 100)
        per_image.set_xticks(np.arange(_MANY + 1), [*map(str, range(_MANY)), f"{_MANY}+"])
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
