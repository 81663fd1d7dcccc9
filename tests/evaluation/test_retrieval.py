"""Ranks of matches against sorting everything."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from maws_composer.evaluation.retrieval import chance_of_recall, match_ranks, recall_at

QUERIES, KEYS, WIDTH = 23, 40, 6


def brute_force(queries: torch.Tensor, keys: torch.Tensor, matches: list[list[int]]) -> list[int]:
    ranks = []
    for query, own in zip(queries.double(), matches, strict=True):
        order = sorted(range(len(keys)), key=lambda key: -float(query @ keys[key].double()))
        foreign = [key for key in order if key not in own]
        best = max(float(query @ keys[key].double()) for key in own)
        ranks.append(1 + sum(float(query @ keys[key].double()) > best for key in foreign))
    return ranks


@pytest.mark.parametrize("similarities_at_once", [3 * KEYS, 1 << 20])
def test_the_best_of_the_own_keys_is_ranked_among_the_foreign_ones(similarities_at_once: int) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, keys = (normalize(torch.randn(n, WIDTH, generator=generator), dim=1) for n in (QUERIES, KEYS))
    own = [torch.randperm(KEYS, generator=generator)[: 1 + number % 3].tolist() for number in range(QUERIES)]
    matches = torch.tensor([[*some, -1, -1][:3] for some in own])
    ranks = match_ranks(queries, keys, matches, similarities_at_once)
    expected = brute_force(queries, keys, own)
    assert ranks.tolist() == expected
    assert recall_at(ranks, 5) == pytest.approx(sum(rank <= 5 for rank in expected) / QUERIES)


def test_who_embeds_everything_alike_retrieves_nothing() -> None:
    alike = normalize(torch.ones(KEYS, WIDTH), dim=1)
    ranks = match_ranks(alike, alike, torch.arange(KEYS).unsqueeze(1))
    assert ranks.tolist() == [KEYS] * KEYS


def test_embeddings_that_are_not_finite_retrieve_nothing() -> None:
    broken = torch.full((KEYS, WIDTH), torch.nan)
    ranks = match_ranks(broken, torch.eye(KEYS, WIDTH), torch.arange(KEYS).unsqueeze(1))
    assert recall_at(ranks, KEYS - 1) == 0


def test_chance_is_what_random_orders_recall() -> None:
    own = torch.tensor([0, 1, 1, 2, 2, 2, 3])  # which text each image has
    generator = torch.Generator().manual_seed(0)
    orders = torch.stack([torch.randperm(7, generator=generator) for _ in range(20_000)])
    for k in (1, 3, 5):
        found = [float((own[orders[:, :k]] == text).any(1).double().mean()) for text in range(4)]
        of_images, of_texts = chance_of_recall(own.bincount(), k)
        assert of_texts == pytest.approx(sum(found) / 4, abs=0.01)
        assert of_images == min(k / 4, 1)
