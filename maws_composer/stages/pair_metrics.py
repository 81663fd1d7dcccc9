"""How well images and texts find each other over all held-out pairs, whatever the batches and the number of ranks."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torchmetrics import Metric

from maws_composer.evaluation.retrieval import images_of_texts, match_ranks, recall_at
from maws_composer.models.clip import Embeddings
from maws_composer.models.contrastive import RowLoss, loss_of_set


class HeldOutPairs(Metric):
    """Keeps the embeddings of all pairs; its value is the contrastive loss with the whole set as one batch.

    Memory: 8 bytes per pair and channel of the common space, on every rank once the set is complete.

    Args:
        of_rows: see `ContrastiveLoss`.

    Attributes:
        ranks: after `compute`: of each image's text among all texts, and of the best of each text's images among all
            images. A caption of several images is one text.
    """

    full_state_update = False

    def __init__(self, of_rows: RowLoss) -> None:
        super().__init__()
        self.of_rows = of_rows
        self.ranks: tuple[Tensor, Tensor] | None = None
        for name in ("image", "text", "caption"):
            self.add_state(name, [], dist_reduce_fx="cat")
        for name in ("scale", "bias"):  # the same on every rank
            self.add_state(name, torch.zeros(1), dist_reduce_fx="max")

    def update(self, pairs: Embeddings, valid: Bool[Tensor, " batch"], captions: Sequence[str]) -> None:
        self.image.append(pairs.image[valid])
        self.text.append(pairs.text[valid])
        self.caption.append(_digests(captions).to(valid.device)[valid])
        self.scale = pairs.scale.detach().clone()
        self.bias = torch.zeros_like(self.scale) if pairs.bias is None else pairs.bias.detach().clone()

    def compute(self) -> Tensor:
        image, text, caption = (
            torch.cat(rows) if isinstance(rows, list) else rows for rows in (self.image, self.text, self.caption)
        )
        own = caption.unique(return_inverse=True)[1]
        images = images_of_texts(own)
        texts = text[images[:, 0]]
        self.ranks = match_ranks(image, texts, own.unsqueeze(1)), match_ranks(texts, image, images)
        return loss_of_set(Embeddings(image, text, self.scale, self.bias), self.of_rows)


class RetrievalRecall(Metric):
    """Share of images whose own text is among the k most similar of all texts; or of texts one of whose images is among
    the k most similar of all images.

    Args:
        pairs: which keep the embeddings; updated and reset on their own.
        k: how many are looked at.
        of_texts: texts look for images.
    """

    full_state_update = False

    def __init__(self, pairs: HeldOutPairs, k: int, of_texts: bool) -> None:
        super().__init__()
        self.pairs = pairs
        self.k = k
        self.of_texts = of_texts

    def update(self, *args: Any) -> None:
        """The pairs are kept once, not by each of their figures."""

    def compute(self) -> Tensor:
        self.pairs.compute()  # gathered and computed once, then remembered
        assert self.pairs.ranks is not None
        return torch.tensor(recall_at(self.pairs.ranks[self.of_texts], self.k))


def _digests(captions: Sequence[str]) -> Int[Tensor, " batch"]:
    """A number for each caption, the same for the same one on any rank."""
    digests = [hashlib.blake2b(caption.encode(), digest_size=8).digest() for caption in captions]
    return torch.tensor([int.from_bytes(digest, "big", signed=True) for digest in digests])
