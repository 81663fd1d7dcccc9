"""Images that an epoch repeats alike, beside one another.

An image's factor is max(1, sqrt(t / f)), f being the frequency of its rarest class. Whoever trains chooses t, so the
shards only have to keep images of about equal f together: a group's frequencies are within a ratio of one another, and
within a group the factor that an image gets is off by at most sqrt(ratio) - 1, which is 4.9 % for 1.1, and by half of
that if its images are spread evenly. Groups that would have fewer images than a minimum also take the next more
frequent ones, so that shards do not become tiny; there the error is larger, but on average over the group it is none.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maws_composer.data.columns import Group


@dataclass(frozen=True)
class Grouping:
    """How images are put together.

    Args:
        ratio: largest frequency of a group over its smallest.
        smallest: images that a group has at least, if there are as many.
    """

    ratio: float = 1.1
    smallest: int = 256


def plan_groups(
    rarest: NDArray[np.int32], counts: NDArray[np.int64], grouping: Grouping
) -> tuple[NDArray[np.int64], list[int]]:
    """The order in which images are written, and how many each group has; the rarest first.

    Within a group images stay in the order of the source.

    Args:
        rarest: for each image, the place in `counts` of its rarest class. int32 (images,)
        counts: how many images a class may have, ascending, each once. int64
        grouping: see there.
    """
    sizes = np.bincount(rarest, minlength=len(counts)).tolist()
    begins, groups = [int(rarest.min())], [0]
    for place in range(begins[0], len(counts)):
        if sizes[place] and counts[place] > counts[begins[-1]] * grouping.ratio and groups[-1] >= grouping.smallest:
            begins.append(place)
            groups.append(0)
        groups[-1] += sizes[place]
    if len(groups) > 1 and groups[-1] < grouping.smallest:
        groups[-2:] = [groups[-2] + groups[-1]]
        del begins[-1]
    group = np.zeros(len(counts), np.min_scalar_type(len(groups)))
    group[begins[1:]] = 1
    return np.argsort(np.cumsum(group, dtype=group.dtype)[rarest], kind="stable"), groups


def describe_group(shards: int, frequencies: NDArray[np.float64]) -> Group:
    """A group of `dataset.json`.

    Args:
        shards: how many it has.
        frequencies: of the rarest class of each of its images. float64 (images,)
    """
    return Group(
        shards=shards,
        images=len(frequencies),
        lowest=float(frequencies.min()),
        highest=float(frequencies.max()),
        mean_inverse_root=float((1 / np.sqrt(frequencies)).mean()),
    )


def runs(groups: Sequence[int], size: int) -> list[slice]:
    """Runs of up to `size` places, one behind the other, none across the border of a group."""
    borders = np.cumsum([0, *groups]).tolist()
    return [
        slice(begin, min(begin + size, end))
        for start, end in itertools.pairwise(borders)
        for begin in range(start, end, size)
    ]
