"""Retrieval: where among all texts an image's own one comes, and the other way round."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from maws_composer.models.contrastive import exact_products

_SIMILARITIES_AT_ONCE = 1 << 25


@torch.no_grad()
def match_ranks(
    queries: Float[Tensor, "queries embed"],
    keys: Float[Tensor, "keys embed"],
    matches: Int[Tensor, "queries matches"],
    similarities_at_once: int = _SIMILARITIES_AT_ONCE,
) -> Int[Tensor, " queries"]:
    """The place, from 1, of the best of each query's own keys among those that are not its own.

    A key that is exactly as similar counts as more similar: texts that are all embedded alike retrieve nothing, and
    neither do embeddings that are not finite.

    Args:
        queries, keys: of unit length.
        matches: indices of the keys that belong to a query, at least one, filled up with negative numbers.
        similarities_at_once: bound on what is in memory.
    """
    own = matches.where(matches >= 0, matches[:, :1])
    ranks = torch.empty(len(queries), dtype=torch.int64, device=queries.device)
    step = max(1, similarities_at_once // max(1, len(keys)))
    with exact_products(queries.device):
        for begin in range(0, len(queries), step):
            rows = slice(begin, begin + step)
            similar = queries[rows].float() @ keys.float().T
            best = similar.gather(1, own[rows]).amax(1, keepdim=True)
            similar.scatter_(1, own[rows], -torch.inf)
            ranks[rows] = 1 + (~(similar < best)).sum(1)  # NaN is not less
    return ranks


def recall_at(ranks: Int[Tensor, " queries"], k: int) -> float:
    """Share of the queries that find one of their own among the k most similar; NaN of none."""
    return (ranks <= k).double().mean().item()


def images_of_texts(own: Int[Tensor, " images"]) -> Int[Tensor, "texts most"]:
    """The images of each text, filled up with -1, from the text of each image; no text is without an image."""
    images = own.argsort(stable=True).split(own.bincount().tolist())
    return pad_sequence(list(images), batch_first=True, padding_value=-1)


def chance_of_recall(images_per_text: Int[Tensor, " texts"], k: int) -> tuple[float, float]:
    """`recall_at` of guessing: of images that have one of the texts each, and of texts that any of theirs will do."""
    texts, images = len(images_per_text), int(images_per_text.sum())
    missed = torch.ones(texts, dtype=torch.float64)
    for drawn in range(min(k, images)):
        missed *= ((images - images_per_text.double() - drawn) / (images - drawn)).clamp(min=0)
    return min(k / texts, 1.0), float(1 - missed.mean())
