"""Crops are torchvision's, except that each follows from (seed, epoch, position)."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as torchvision_functional
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, RandomResizedCrop, Resize

from maws_composer.data.transforms import Chosen, RandomCropAndFlip, ResizeAndCrop

SCALE, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)
CROP = RandomCropAndFlip(seed=1, size=32, scale=SCALE, ratio=RATIO, flip=True)


def picture(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(noise)


def largest_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Between the distribution functions of two samples (Kolmogorov, Smirnov)."""
    values = np.sort(np.concatenate([a, b]))
    of_a, of_b = (np.searchsorted(np.sort(x), values, "right") / len(x) for x in (a, b))
    return float(abs(of_a - of_b).max())


@pytest.mark.parametrize("size", [(100, 75), (64, 64), (40, 160)])
def test_boxes_are_distributed_as_those_of_torchvision(size):
    count = 6000
    ours = np.array([CROP.box(size, 0, position) for position in range(count)], float)
    torch.manual_seed(0)
    image = picture(*size)
    drawn = [RandomResizedCrop.get_params(image, list(SCALE), list(RATIO)) for _ in range(count)]
    theirs = np.array([(left, top, left + w, top + h) for top, left, h, w in drawn], float)
    for of in (
        lambda box: (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]),
        lambda box: (box[:, 2] - box[:, 0]) / (box[:, 3] - box[:, 1]),
        lambda box: box[:, 0],
        lambda box: box[:, 1],
        lambda box: box[:, 2] + 1000 * box[:, 3],
    ):
        # 1.95 * sqrt(2 / n) is passed with probability 0.001.
        assert largest_distance(of(ours), of(theirs)) < 1.95 * math.sqrt(2 / count)


@pytest.mark.parametrize("size", [(97, 61), (30, 90), (20, 20)])
def test_the_pixels_of_a_box_are_those_of_torchvision(size):
    image = picture(*size)
    crop = RandomCropAndFlip(seed=1, size=32, scale=SCALE, ratio=RATIO, flip=False)
    for position in range(20):
        left, top, right, bottom = crop.box(size, 3, position)
        expected = torchvision_functional.resized_crop(
            image, top, left, bottom - top, right - left, [32, 32], InterpolationMode.BICUBIC
        )
        ours = crop(image, 3, position)
        assert ours.dtype == torch.uint8 and ours.shape == (3, 32, 32)
        assert torch.equal(ours, torchvision_functional.pil_to_tensor(expected))


def test_half_of_the_crops_are_mirrored_and_nothing_else_changes():
    image = picture(50, 40)
    plain = RandomCropAndFlip(seed=1, size=32, scale=SCALE, ratio=RATIO, flip=False)
    mirrored = 0
    for position in range(400):
        ours, same = CROP(image, 0, position), plain(image, 0, position)
        if not torch.equal(ours, same):
            assert torch.equal(ours, same.flip(2))
            mirrored += 1
    assert abs(mirrored - 200) < 5 * 10


def test_a_picture_too_long_for_any_allowed_crop_gets_the_largest_in_its_middle():
    crop = RandomCropAndFlip(seed=1, size=8, scale=(1.0, 1.0), ratio=RATIO, flip=False)
    assert crop.box((300, 30), 0, 0) == (130, 0, 170, 30)
    assert crop.box((30, 300), 0, 0) == (0, 130, 30, 170)


@pytest.mark.parametrize("size", [(97, 61), (61, 97), (64, 64), (33, 200)])
@pytest.mark.parametrize("resize", [32, 37, 57])
def test_evaluation_pixels_are_those_of_torchvision(size, resize):
    image = picture(*size)
    expected = CenterCrop(32)(Resize(resize, InterpolationMode.BICUBIC)(image))
    ours = ResizeAndCrop(32, resize)(image, 0, 0)
    assert torch.equal(ours, torchvision_functional.pil_to_tensor(expected))


def noisy(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Four pixels, each from another generator."""
    drawn = (generator.random(), np.random.rand(), random.random(), torch.rand(()).item())
    return Image.fromarray(np.array([[[int(256 * each)] * 3 for each in drawn[row::2]] for row in (0, 1)], np.uint8))


def test_what_a_chosen_transform_draws_is_the_samples_own_and_nobody_elses() -> None:
    image, chosen = Image.new("RGB", (8, 8)), Chosen("noisy", noisy, seed=3, size=2)
    torch.manual_seed(0)
    expected = torch.rand(2)
    first = chosen(image, 0, 5)
    torch.rand(1)
    assert torch.equal(chosen(image, 0, 5), first)
    assert not torch.equal(chosen(image, 0, 6), first) and not torch.equal(chosen(image, 1, 5), first)
    torch.manual_seed(0)
    chosen(image, 0, 7)
    assert torch.equal(torch.rand(2), expected)


def test_a_chosen_transform_has_to_make_a_square_of_the_models_size() -> None:
    with pytest.raises(ValueError, match=r"the transform 'same' returned RGB \(8, 8\); expected an RGB image of 4 x 4"):
        Chosen("same", lambda image, generator: image, seed=0, size=4)(Image.new("RGB", (8, 8)), 0, 0)
