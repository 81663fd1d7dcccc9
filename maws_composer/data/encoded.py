"""JPEGs on their way to the device that decodes them: a loader worker's half of `data.train.decode: gpu`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from PIL import Image
from torch import Tensor

from maws_composer.data.batches import Batch, Tokenize, columns_of, stacked
from maws_composer.data.columns import IMAGE
from maws_composer.data.crossing import CrossingBatch, Slot, Slots
from maws_composer.data.decode import decode, jpeg_header
from maws_composer.data.transforms import Box, Pixels, RandomCropAndFlip
from maws_composer.data.usable import Sample

_NOWHERE: Box = (0, 0, 0, 0)


@dataclass(frozen=True)
class EncodedJpeg:
    """A JPEG that is not decoded yet.

    Attributes:
        data: the whole file.
        size: (width, height).
    """

    data: bytes
    size: tuple[int, int]


@dataclass(frozen=True)
class EncodedCrop:
    """A crop that is not made yet: what of the picture it is, in its pixels, and whether it is mirrored."""

    jpeg: EncodedJpeg
    box: Box
    mirrored: bool


def open_encoded(data: bytes | Image.Image, max_pixels: int) -> EncodedJpeg | Image.Image:
    """A whole JPEG in grey or YCbCr, of which only the header is read. Anything else is decoded now, by `decode`.

    Raises:
        UndecodableImageError: see `decode`.
    """
    header = jpeg_header(data, max_pixels)
    # Adobe's 0 stands for RGB as it is, which a decoder that does not know the mark would convert.
    if isinstance(data, bytes) and header is not None and header.info.get("adobe_transform") != 0:
        return EncodedJpeg(data, header.size)
    return decode(data, max_pixels)


@dataclass(frozen=True)
class CropLater:
    """Draws what `crop` draws, for the device to make. What is decoded already is cropped at once."""

    crop: RandomCropAndFlip

    @property
    def size(self) -> int:
        """Side of the square, in pixels."""
        return self.crop.size

    def __call__(self, image: Image.Image | EncodedJpeg, epoch: int, position: int) -> Pixels | EncodedCrop:
        if isinstance(image, Image.Image):
            return self.crop(image, epoch, position)
        return EncodedCrop(image, self.crop.box(image.size, epoch, position), self.crop.mirrored(epoch, position))


class Packed(NamedTuple):
    """The pictures of a batch as they travel to its rank: columns in the place of `image`.

    Attributes:
        files: the JPEGs, one after the other.
        lengths: of each of them, in bytes.
        sizes: their (width, height).
        jpeg: which of them a row is a crop of; -1: of none, the row is in `made`.
        boxes: (left, top, right, bottom) of each row's crop.
        mirrored: whether it is.
        made: rows that are no crops of a JPEG, in their order; without any, empty.
    """

    files: UInt8[Tensor, " bytes"]
    lengths: Int64[Tensor, " jpegs"]
    sizes: Int64[Tensor, "jpegs 2"]
    jpeg: Int64[Tensor, " batch"]
    boxes: Int64[Tensor, "batch 4"]
    mirrored: Bool[Tensor, " batch"]
    made: UInt8[Tensor, "made 3 size size"]


def collate_encoded(
    images: Sequence[Sequence[Sample]], tokenizer: Tokenize | None = None, slots: Slots | None = None
) -> Batch:
    """As `collate`, with `Packed` in the place of `image`: a file once, however many crops of its picture there are."""
    slot = slots.take() if slots is not None else None
    others = [[{name: sample[name] for name in sample if name != IMAGE} for sample in crops] for crops in images]
    packed = pack([[sample[IMAGE] for sample in crops] for crops in images], slot)
    batch = {**columns_of(others, tokenizer, slot), **packed._asdict()}
    return batch if slot is None else CrossingBatch(batch, slot)


def pack(images: Sequence[Sequence[Pixels | EncodedCrop]], slot: Slot | None = None) -> Packed:
    """The crops of each image, as many of each; their rows are in the order of `collate`'s."""
    jpegs: list[EncodedJpeg] = []
    numbers = []
    for first, *_ in images:
        if isinstance(first, EncodedCrop):
            jpegs.append(first.jpeg)
        numbers.append(len(jpegs) - 1 if isinstance(first, EncodedCrop) else -1)
    rows = [crop for crops in zip(*images, strict=True) for crop in crops]
    made = [row for row in rows if isinstance(row, Tensor)]
    return Packed(
        files=_joined([jpeg.data for jpeg in jpegs], slot),
        lengths=torch.tensor([len(jpeg.data) for jpeg in jpegs], dtype=torch.int64),
        sizes=torch.tensor([jpeg.size for jpeg in jpegs], dtype=torch.int64).view(-1, 2),
        jpeg=torch.tensor(numbers * len(images[0])),
        boxes=torch.tensor([row.box if isinstance(row, EncodedCrop) else _NOWHERE for row in rows]),
        mirrored=torch.tensor([isinstance(row, EncodedCrop) and row.mirrored for row in rows]),
        made=stacked(made, slot) if made else torch.empty(0, dtype=torch.uint8),
    )


def _joined(files: Sequence[bytes], slot: Slot | None) -> UInt8[Tensor, " bytes"]:
    size = torch.Size([sum(map(len, files))])
    room = slot.room(size, torch.uint8) if slot is not None else None
    joined = torch.empty(size, dtype=torch.uint8) if room is None else room
    if files:
        np.concatenate([np.frombuffer(file, np.uint8) for file in files], out=joined.numpy())
    return joined
