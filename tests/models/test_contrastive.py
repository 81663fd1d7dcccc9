"""Contrastive losses over several ranks and in chunks, against the closed form of one process in float64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from maws_composer.models.contrastive import LOSSES, loss_of_set
from tests.models.pairs import BATCH, make_pairs
from tests.processes import run_ranks

RANK = Path(__file__).with_name("contrastive_ranks.py")


def closed_form(loss: str) -> list[torch.Tensor]:
    """The loss and its gradients, as the papers write them: all logits at once."""
    pairs = make_pairs(loss, torch.float64)
    leaves = [part.requires_grad_() for part in pairs if part is not None]
    image, text, scale = leaves[:3]
    logits = scale * image @ text.T
    if loss == "softmax":
        own = torch.arange(BATCH)
        value = 0.5 * (cross_entropy(logits, own) + cross_entropy(logits.T, own))
    else:
        is_match = 2 * torch.eye(BATCH) - 1
        value = torch.log1p(torch.exp(-is_match * (logits + leaves[3]))).sum() / BATCH
    return [value.detach(), *torch.autograd.grad(value, leaves)]


@pytest.mark.parametrize("world_size", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_and_chunks_change_neither_value_nor_gradient(world_size: int) -> None:
    logits_at_once = 5 * BATCH  # five rows of 24, 12 or 6: the last chunk is smaller
    for rank in run_ranks(RANK, logits_at_once, world_size):
        for loss, results in rank.items():
            for result, expected in zip(results, closed_form(loss), strict=True):
                torch.testing.assert_close(torch.tensor(result, dtype=torch.float64), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_set_costs_what_it_would_as_one_batch(loss: str) -> None:
    value = loss_of_set(make_pairs(loss, torch.float32), LOSSES[loss].of_rows, logits_at_once=5 * BATCH)
    assert value.item() == pytest.approx(closed_form(loss)[0].item(), rel=1e-6)


def test_logits_are_fp32_under_autocast() -> None:
    pairs = make_pairs("softmax", torch.float32)
    exact = loss_of_set(pairs, LOSSES["softmax"].of_rows)
    with torch.autocast("cpu", torch.bfloat16):
        assert loss_of_set(pairs, LOSSES["softmax"].of_rows).item() == exact.item()
