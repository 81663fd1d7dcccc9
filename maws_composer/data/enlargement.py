"""What crops lose in pictures that were resized when they were converted."""

from __future__ import annotations

from maws_composer.config.problems import ConfigError
from maws_composer.data.columns import DatasetFileError
from maws_composer.data.index import Index, read_dataset_file
from maws_composer.data.transforms import RandomCropAndFlip

_DRAWS = 4_000  # a share is off by at most 1.6 points, twice its standard error
_WIDE = 4 / 3  # the usual shape of a photograph


def enlarged_share(crop: RandomCropAndFlip, size: tuple[int, int]) -> float:
    """The share of the crops of a picture that have fewer pixels than the square which is made of them.

    Args:
        crop: as it is trained with.
        size: (width, height) of the picture.
    """
    boxes = (crop.box(size, 0, position) for position in range(_DRAWS))
    enlarged = sum((right - left) * (bottom - top) < crop.size**2 for left, top, right, bottom in boxes)
    return enlarged / _DRAWS


def enlargement_note(index: Index, crop: RandomCropAndFlip, timeout: float) -> str | None:
    """What is to be known of pictures that were resized further than the smallest crops allow; None: nothing.

    Args:
        index: of the shards.
        crop: as it is trained with.
        timeout: seconds that reading `dataset.json` may take.
    """
    side = _shortest_side(index, timeout)
    enough = smallest_side_without(crop)
    if side is None or side >= enough:
        return None
    share = enlarged_share(crop, (round(side * _WIDE), side))
    return (
        f"{index.source.address}: pictures were resized to a shorter side of {side} pixels; where one is "
        f"{round(side * _WIDE)} x {side}, {share:.0%} of its crops have fewer than the {crop.size} x {crop.size} "
        f"pixels that are made of them; with a shorter side of {enough}, none would"
    )


def smallest_side_without(crop: RandomCropAndFlip) -> int:
    """The shorter side, in pixels, from which no crop is enlarged: the smallest crop of a square then has enough."""
    return int(-(-crop.size // crop.scale[0] ** 0.5))


def _shortest_side(index: Index, timeout: float) -> int | None:
    try:
        dataset = read_dataset_file(index.source, timeout)
    except (ConfigError, DatasetFileError):  # a note is not worth a problem
        return None
    return dataset.shortest_side if dataset else None
