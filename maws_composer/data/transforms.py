"""From a decoded image to the pixels that travel to the device."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from maws_composer.data.decode import resized_crop
from maws_composer.data.randomness import Purpose, below, sample_words, uniform

if TYPE_CHECKING:
    from maws_composer.data.fast_jpeg import Jpeg

Pixels = UInt8[Tensor, "3 height width"]
Box = tuple[int, int, int, int]

_ATTEMPTS = 10


class Transform(Protocol):
    """What happens to a decoded image; everything random in it follows from epoch and position."""

    @property
    def size(self) -> int:
        """Side of the square that it makes, in pixels."""

    def __call__(self, image: Any, epoch: int, position: int) -> Pixels: ...


@dataclass(frozen=True)
class RandomCropAndFlip:
    """A random crop of random shape, resized to a square, mirrored every second time (Szegedy et al. 2015).

    Args:
        seed: of the run.
        size: side of the square, in pixels.
        scale: smallest and largest share of the picture's area.
        ratio: smallest and largest width / height.
        flip: whether to mirror at all.
    """

    seed: int
    size: int
    scale: tuple[float, float]
    ratio: tuple[float, float]
    flip: bool

    def __call__(self, image: Image.Image | Jpeg, epoch: int, position: int) -> Pixels:
        box = self.box(image.size, epoch, position)
        mirrored = self.mirrored(epoch, position)
        if isinstance(image, Image.Image):
            return torch.from_numpy(resized_crop(image, box, self.size, mirrored))
        return torch.from_numpy(image.crop(box, self.size, mirrored))

    def mirrored(self, epoch: int, position: int) -> bool:
        """Every second time."""
        return self.flip and bool(sample_words(self.seed, epoch, position, Purpose.FLIP)[0] >> 31)

    def box(self, size: tuple[int, int], epoch: int, position: int) -> Box:
        """(left, top, right, bottom), distributed as torchvision's RandomResizedCrop draws it."""
        width, height = size
        low, high = (math.log(limit) for limit in self.ratio)
        for attempt in range(_ATTEMPTS):
            words = sample_words(self.seed, epoch, position, Purpose.CROP, attempt)
            area = width * height * (self.scale[0] + (self.scale[1] - self.scale[0]) * uniform(words[0]))
            aspect = math.exp(low + (high - low) * uniform(words[1]))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left, top = below(words[2], width - w + 1), below(words[3], height - h + 1)
                return left, top, left + w, top + h
        return self._central_box(width, height)

    def _central_box(self, width: int, height: int) -> Box:
        """The largest central crop of an allowed shape."""
        w, h = width, height
        if width / height < self.ratio[0]:
            h = round(w / self.ratio[0])
        elif width / height > self.ratio[1]:
            w = round(h * self.ratio[1])
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h


@dataclass(frozen=True)
class Chosen:
    """A transform that a run names. What it draws at random is the sample's own, from whichever generator it draws.

    Args:
        name: of the plugin, for errors.
        transform: (image, generator) -> image.
        seed: of the run.
        size: side of the square that it has to make, in pixels.
    """

    name: str
    transform: Callable[[Image.Image, np.random.Generator], Image.Image]
    seed: int
    size: int

    def __call__(self, image: Image.Image, epoch: int, position: int) -> Pixels:
        words = sample_words(self.seed, epoch, position, Purpose.TRANSFORM)
        generator = np.random.Generator(np.random.Philox(key=sum(word << 32 * i for i, word in enumerate(words))))
        with global_generators(words[0]):
            made = self.transform(image, generator)
        if not isinstance(made, Image.Image) or (made.mode, made.size) != ("RGB", (self.size, self.size)):
            what = f"{made.mode} {made.size}" if isinstance(made, Image.Image) else type(made).__name__
            expected = f"an RGB image of {self.size} x {self.size} pixels, the model's image_size"
            raise ValueError(f"the transform {self.name!r} returned {what}; expected {expected}")
        return pixels(made)


@contextmanager
def global_generators(seed: int) -> Iterator[None]:
    """Python's, NumPy's and PyTorch's global generators (the CPU's) begin with `seed`, and are as before afterwards.

    Libraries of augmentations draw from them; a loader without workers shares them with the training.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@dataclass(frozen=True)
class ResizeAndCrop:
    """Nothing random: see `resize_and_crop`."""

    size: int
    resize: int

    def __call__(self, image: Image.Image, epoch: int, position: int) -> Pixels:
        return resize_and_crop(image, self.size, self.resize)


def resize_and_crop(image: Image.Image, size: int, resize: int | None = None) -> Pixels:
    """Resize the shorter side to `resize` (default: `size`), bicubic, and cut the central square of `size` pixels."""
    shorter = resize or size
    width, height = image.size
    if width <= height:
        width, height = shorter, int(shorter * height / width)
    else:
        width, height = int(shorter * width / height), shorter
    left, top = round((width - size) / 2), round((height - size) / 2)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    return pixels(image.crop((left, top, left + size, top + size)))


def pixels(image: Image.Image) -> Pixels:
    """An RGB image as uint8, channels first."""
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
