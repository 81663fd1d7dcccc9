"""Everything random about a sample, as a function of (seed, epoch, position) and of nothing else.

Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). A counter-based hash has no state
that a rank, a worker or a resumption could advance differently, and integers are the same on CPU and GPU.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar

import torch
from jaxtyping import Int64
from torch import Tensor

Word = TypeVar("Word", int, Tensor)

MASK32 = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


class Purpose(IntEnum):
    """What a random number is for; different purposes never share one."""

    CROP = 1
    FLIP = 2
    MASK = 3
    LABEL = 4
    DROPOUT = 5
    TRANSFORM = 6
    READ = 7


def philox(key: tuple[int, int], counter: tuple[Word, Word, Word, Word]) -> tuple[Word, Word, Word, Word]:
    """Four random words below 2**32 for a key and a counter of words below 2**32.

    Words are Python ints or int64 tensors of one shape. Products of two words wrap in int64, which leaves all 64 bits
    right; the sign that `>> 32` smears over the upper half is masked away.
    """
    (k0, k1), (c0, c1, c2, c3) = key, counter
    for _ in range(_ROUNDS):
        left, right = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((right >> 32) & MASK32) ^ c1 ^ k0,
            right & MASK32,
            ((left >> 32) & MASK32) ^ c3 ^ k1,
            left & MASK32,
        )
        k0, k1 = (k0 + _KEY_STEPS[0]) & MASK32, (k1 + _KEY_STEPS[1]) & MASK32
    return c0, c1, c2, c3


def sample_words(seed: int, epoch: int, position: int, purpose: Purpose, draw: int = 0) -> tuple[int, int, int, int]:
    """The `draw`-th four random words of one sample, for one purpose."""
    counter = (position & MASK32, position >> 32, epoch, purpose << 24 | draw)
    return philox(split_seed(seed), counter)


def uniform(word: int) -> float:
    """The word as a number in [0, 1), exactly."""
    return word / 2**32


def below(word: int, limit: int) -> int:
    """The word as an integer in [0, limit)."""
    return word * limit >> 32


def mask_noise(
    seed: int, epoch: Int64[Tensor, " batch"], position: Int64[Tensor, " batch"], patches: int
) -> Int64[Tensor, "batch patches"]:
    """A random word for each patch of each sample, on the samples' device, the same on any."""
    draws = -(-patches // 4)
    draw = torch.arange(draws, device=position.device) | (Purpose.MASK << 24)
    low, high, epoch, draw = torch.broadcast_tensors(
        (position & MASK32)[:, None], (position >> 32)[:, None], epoch[:, None], draw[None]
    )
    words = philox(split_seed(seed), (low, high, epoch, draw))
    return torch.stack(words, dim=2).flatten(1)[:, :patches]


def split_seed(seed: int) -> tuple[int, int]:
    """The seed, below 2**64, as Philox's key: low word, high word."""
    return seed & MASK32, seed >> 32 & MASK32
