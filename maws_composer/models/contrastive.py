"""Contrastive losses over the global batch: each rank has its own rows, and looks at everybody's columns.

The logits of all pairs are never whole in memory, and are fp32 whatever the rest is computed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from maws_composer.models.clip import INITIAL_SCALE, Embeddings

# of one chunk: 128 MB in fp32, and a few times that for the backward pass
LOGITS_AT_ONCE = 1 << 25

RowLoss = Callable[[Float[Tensor, "rows columns"], Int[Tensor, " rows"]], Float[Tensor, " rows"]]


def softmax_rows(logits: Float[Tensor, "rows columns"], match: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    """Cross-entropy of the row's own column among all of them (CLIP, Radford et al. 2021)."""
    return cross_entropy(logits, match, reduction="none")


def sigmoid_rows(logits: Float[Tensor, "rows columns"], match: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    """Each column judged for itself, the row's own one as a match (SigLIP, Zhai et al. 2023)."""
    sign = torch.full_like(logits, -1.0).scatter_(1, match.unsqueeze(1), 1.0)
    return -logsigmoid(sign * logits).sum(1)


@dataclass(frozen=True)
class ContrastiveLoss:
    """A loss over pairs: the mean over images among all texts and over texts among all images.

    Attributes:
        of_rows: what a row of logits costs, given which column belongs to it.
        initial_scale: what cosines are multiplied by at the start.
        initial_bias: what is added then, where the loss needs that.
    """

    of_rows: RowLoss
    initial_scale: float = INITIAL_SCALE
    initial_bias: float | None = None


LOSSES: dict[str, ContrastiveLoss] = {
    "softmax": ContrastiveLoss(softmax_rows),
    "sigmoid": ContrastiveLoss(sigmoid_rows, initial_scale=10.0, initial_bias=-10.0),
}


def global_loss(pairs: Embeddings, of_rows: RowLoss, logits_at_once: int = LOGITS_AT_ONCE) -> Float[Tensor, ""]:
    """This rank's part of the loss, differentiable: the mean over ranks is the loss of the global batch.

    The mean of the ranks' gradients, which is what FSDP makes of them, is its gradient. A collective, forward only.
    """
    return _GlobalLoss.apply(*pairs, of_rows, logits_at_once)


def global_loss_and_gradients(
    pairs: Embeddings, of_rows: RowLoss, logits_at_once: int = LOGITS_AT_ONCE
) -> tuple[Float[Tensor, ""], Embeddings]:
    """`global_loss`, and its gradients with respect to `pairs`. A collective.

    Args:
        pairs: of this rank; every rank has equally many.
        of_rows: the loss of a row.
        logits_at_once: bound on what is in memory.
    """
    image, text = pairs.image.detach(), pairs.text.detach()
    with exact_products(image.device):
        images, texts = _gather(image), _gather(text)
        of_texts, loss_i, own_i, scale_i, bias_i = _one_way(image, texts, pairs, of_rows, logits_at_once)
        of_images, loss_t, own_t, scale_t, bias_t = _one_way(text, images, pairs, of_rows, logits_at_once)
        own_i += _scatter(of_images)
        own_t += _scatter(of_texts)
    half = 0.5 / len(image)
    bias = None if pairs.bias is None else half * (bias_i + bias_t)
    return half * (loss_i + loss_t), Embeddings(half * own_i, half * own_t, half * (scale_i + scale_t), bias)


@torch.no_grad()
def loss_of_set(pairs: Embeddings, of_rows: RowLoss, logits_at_once: int = LOGITS_AT_ONCE) -> Float[Tensor, ""]:
    """The loss of a set of pairs as one batch; every rank that asks has all of them."""
    total = pairs.image.new_zeros(())
    with exact_products(pairs.image.device):
        for queries, keys in ((pairs.image, pairs.text), (pairs.text, pairs.image)):
            for rows in _chunks(len(queries), len(keys), logits_at_once):
                total += of_rows(_logits(queries[rows], keys, pairs.scale, pairs.bias), _own(rows, 0, queries)).sum()
    return total / (2 * len(pairs.image))


class _GlobalLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, image: Tensor, text: Tensor, scale: Tensor, bias: Tensor | None, of_rows: RowLoss, at_once: int
    ) -> Tensor:
        loss, gradients = global_loss_and_gradients(Embeddings(image, text, scale, bias), of_rows, at_once)
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (outer,) = gradients
        return (*(None if inner is None else outer * inner for inner in ctx.saved_tensors), None, None)


def _one_way(
    queries: Tensor, keys: Tensor, pairs: Embeddings, of_rows: RowLoss, at_once: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Sums over this rank's queries: gradient of all keys, loss, gradients of the queries, of scale and bias."""
    keys, scale = keys.requires_grad_(), pairs.scale.detach().requires_grad_()
    bias = torch.zeros_like(scale) if pairs.bias is None else pairs.bias.detach()
    bias = bias.requires_grad_()
    first = _rank() * len(queries)
    loss, of_scale, of_bias = (torch.zeros_like(scale) for _ in range(3))
    of_keys, of_queries = torch.zeros_like(keys), torch.zeros_like(queries)
    for rows in _chunks(len(queries), len(keys), at_once):
        some = queries[rows].detach().requires_grad_()
        with torch.enable_grad():
            part = of_rows(_logits(some, keys, scale, bias), _own(rows, first, queries)).sum()
        for_some, for_keys, for_scale, for_bias = torch.autograd.grad(part, (some, keys, scale, bias))
        of_queries[rows] = for_some
        of_keys += for_keys
        of_scale += for_scale
        of_bias += for_bias
        loss += part.detach()
    return of_keys, loss.squeeze(0), of_queries, of_scale, of_bias


def _logits(queries: Tensor, keys: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    logits = (queries * scale) @ keys.T
    return logits if bias is None else logits + bias


def _chunks(rows: int, columns: int, at_once: int) -> Iterator[slice]:
    step = max(1, at_once // columns)
    for begin in range(0, rows, step):
        yield slice(begin, min(begin + step, rows))


def _own(rows: slice, first: int, like: Tensor) -> Tensor:
    return torch.arange(first + rows.start, first + rows.stop, device=like.device)


def _gather(rows: Tensor) -> Tensor:
    """Everybody's rows, in the order of the ranks."""
    if _world_size() == 1:
        return rows.clone()
    everybodys = rows.new_empty(_world_size() * len(rows), rows.shape[1])
    dist.all_gather_into_tensor(everybodys, rows.contiguous())
    return everybodys


def _scatter(everybodys: Tensor) -> Tensor:
    """The sum over ranks, of which each gets its own rows."""
    if _world_size() == 1:
        return everybodys
    own = everybodys.new_empty(len(everybodys) // _world_size(), everybodys.shape[1])
    dist.reduce_scatter_tensor(own, everybodys.contiguous())
    return own


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Within, neither autocast nor TF32: a cosine that is wrong by 1e-3 is wrong by 0.1 at a scale of 100."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
