"""Pairs of unit vectors that are the same in every process."""

import torch
from torch.nn.functional import normalize

from maws_composer.models.clip import Embeddings

BATCH, WIDTH = 24, 8


def make_pairs(loss: str, dtype: torch.dtype) -> Embeddings:
    generator = torch.Generator().manual_seed(0)
    image, noise = (torch.randn(BATCH, WIDTH, generator=generator) for _ in range(2))
    pairs = (normalize(image, dim=1), normalize(image + noise, dim=1))
    bias = torch.tensor([-10.0]) if loss == "sigmoid" else None
    return Embeddings(*(None if part is None else part.to(dtype) for part in (*pairs, torch.tensor([14.0]), bias)))
