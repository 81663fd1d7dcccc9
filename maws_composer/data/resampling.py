"""Repeating images of rare classes, from groups of shards.

An image's factor is max(1, sqrt(threshold / f)), f being the frequency of its rarest class (FACTS 3). All images of a
group are repeated alike, by the group's mean factor. So an epoch holds as many draws as with each image's own factor,
and a single image's differs from it by at most sqrt(highest / lowest) of its group. Where the threshold lies between a
group's lowest and highest, its mean factor is not known but bounded, and the middle of the bounds is taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.data.columns import Group
from maws_composer.data.index import Index
from maws_composer.data.settings import Resampling

_BISECTIONS = 100


def factor_bounds(group: Group, threshold: float) -> tuple[float, float]:
    """Between which the mean of max(1, sqrt(threshold / f)) over the images of a group lies.

    The mean of sqrt(threshold / f) alone is known. The mean of a convex function of it is at least the function of the
    mean, and at most where the chord between the group's ends has it.
    """
    root = math.sqrt(threshold)
    least, mean, most = root / math.sqrt(group.highest), root * group.mean_inverse_root, root / math.sqrt(group.lowest)
    if least >= 1:
        return mean, mean
    if most <= 1:
        return 1.0, 1.0
    return max(1.0, mean), 1 + (most - 1) * (mean - least) / (most - least)


def mean_factor(group: Group, threshold: float) -> float:
    """How often an epoch repeats the images of a group, on average."""
    return sum(factor_bounds(group, threshold)) / 2


def draws(indexes: Sequence[Index], threshold: float) -> float:
    """Draws of an epoch."""
    groups = [(group, index.source.repeat) for index in indexes for group in index.groups]
    return sum(repeat * group.images * mean_factor(group, threshold) for group, repeat in groups)


def threshold_of(resampling: Resampling, indexes: Sequence[Index]) -> float:
    """The threshold, as given or so that an epoch has the wanted size.

    Raises:
        ConfigError: no threshold gives that size.
    """
    if resampling.threshold is not None:
        return resampling.threshold
    assert resampling.epoch_size is not None
    groups = [group for index in indexes for group in index.groups]
    low, high = min(group.lowest for group in groups), max(group.highest for group in groups)
    smallest, largest = draws(indexes, low), draws(indexes, high)
    if not math.floor(smallest) <= resampling.epoch_size <= math.ceil(largest):
        message = (
            f"{resampling.epoch_size:,} cannot be had: an epoch has {math.floor(smallest):,} draws without resampling "
            f"and at most {math.ceil(largest):,} with it; data.train.repeat multiplies both"
        )
        raise ConfigError([Problem("data.train.resampling.epoch_size", message)])
    for _ in range(_BISECTIONS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if draws(indexes, middle) < resampling.epoch_size else (low, middle)
    return high


def quantization(indexes: Sequence[Index], threshold: float) -> float:
    """By which share, at most, the draws of an image that is repeated differ from those of its own factor."""
    repeated = [group for index in indexes for group in index.groups if group.lowest < threshold]
    ratios = (math.sqrt(min(group.highest, threshold) / group.lowest) for group in repeated)
    return max(ratios, default=1.0) - 1


def describe(resampling: Resampling, indexes: Sequence[Index]) -> str:
    """What resampling comes to, for the log."""
    threshold = threshold_of(resampling, indexes)
    images = sum(group.images for index in indexes for group in index.groups)
    return (
        f"{images:,} images are resampled to {draws(indexes, threshold):,.0f} draws by threshold {threshold:.4g}, "
        f"in groups that are within {quantization(indexes, threshold):.1%} of each image's own factor"
    )
