"""Randomness is a function of (seed, epoch, position): the same in Python, on tensors, for any batch."""

from __future__ import annotations

import random

import pytest
import torch

from maws_composer.data.randomness import MASK32, Purpose, below, mask_noise, philox, sample_words, uniform

ONES = MASK32
PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)


@pytest.mark.parametrize(
    ("key", "counter", "expected"),
    [
        ((0, 0), (0, 0, 0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((ONES, ONES), (ONES,) * 4, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ((0xA4093822, 0x299F31D0), PI, "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_answers_of_its_authors(key, counter, expected):
    assert " ".join(f"{word:08x}" for word in philox(key, counter)) == expected


def test_tensors_give_the_words_that_python_integers_give():
    source = random.Random(0)
    counters = [[source.getrandbits(32) for _ in range(4)] for _ in range(200)]
    key = (source.getrandbits(32), source.getrandbits(32))
    words = philox(key, tuple(torch.tensor(counters).T))
    assert torch.stack(words, 1).tolist() == [list(philox(key, tuple(counter))) for counter in counters]


def test_mask_noise_of_a_sample_does_not_depend_on_its_batch():
    epoch, position = torch.tensor([0, 3, 2**31]), torch.tensor([7, 5 * 2**32 + 1, 2**40])
    noise = mask_noise(2**40 + 9, epoch, position, 10)
    for row in range(3):
        alone = mask_noise(2**40 + 9, epoch[row : row + 1], position[row : row + 1], 10)
        assert torch.equal(noise[row], alone[0])
        words = [
            sample_words(2**40 + 9, int(epoch[row]), int(position[row]), Purpose.MASK, draw)[i]
            for draw in range(3)
            for i in range(4)
        ]
        assert noise[row].tolist() == words[:10]


def test_seed_epoch_position_purpose_and_draw_all_matter():
    base = (1, 2, 3, Purpose.CROP, 0)
    others = [
        (2, 2, 3, Purpose.CROP, 0),
        (1 + 2**32, 2, 3, Purpose.CROP, 0),
        (1, 3, 3, Purpose.CROP, 0),
        (1, 2, 3 + 2**32, Purpose.CROP, 0),
        (1, 2, 3, Purpose.FLIP, 0),
        (1, 2, 3, Purpose.CROP, 1),
    ]
    assert len({sample_words(*arguments) for arguments in [base, *others]}) == 7


def test_words_become_uniform_numbers():
    words = [word for position in range(2000) for word in sample_words(0, 0, position, Purpose.CROP)]
    numbers = torch.tensor([uniform(word) for word in words])
    assert numbers.min() >= 0 and numbers.max() < 1
    counts = torch.bincount(torch.tensor([below(word, 10) for word in words]), minlength=10)
    assert ((counts - 800).abs() < 5 * (800 * 0.9) ** 0.5).all()
    assert uniform(0) == 0 and uniform(MASK32) == 1 - 2**-32 and below(MASK32, 7) == 6
