"""k nearest neighbours, weighted by similarity (Wu et al. 2018, "Unsupervised feature learning via non-parametric
instance discrimination", section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from maws_composer.evaluation.features import Features, Result, count_classes, multi_hot, top1
from maws_composer.parallel.precision import torch_device
from maws_composer.registry import register_evaluation

_SIMILARITIES = 1 << 27  # at once: 512 MB


@register_evaluation("knn")
@dataclass(frozen=True)
class Knn:
    """Each of the k training images of highest cosine similarity votes for its classes, with weight
    exp(similarity / temperature).

    An image of several classes votes for each of them, and any of a test image's classes is a hit.

    Args:
        k: neighbours.
        temperature: lower values let the nearest decide.
    """

    k: Annotated[int, Field(gt=0)] = 20
    temperature: Annotated[float, Field(gt=0)] = 0.07

    def __call__(self, train: Features, test: Features) -> Result:
        device, classes = torch_device(), count_classes(train, test)
        keys = normalize(train.values.to(device))
        labels = train.labels.to(device)
        hits = 0.0
        at_once = max(1, _SIMILARITIES // max(len(train), self.k * classes))
        for rows in torch.arange(len(test)).split(at_once):
            scores = self.votes(normalize(test.values[rows].to(device)), keys, labels, classes)
            hits += top1(scores, test.labels[rows].to(device)) * len(rows)
        return Result({"top1": hits / len(test)})

    def votes(
        self,
        queries: Float[Tensor, "queries width"],
        keys: Float[Tensor, "train width"],
        labels: Int[Tensor, "train most"],
        classes: int,
    ) -> Float[Tensor, "queries classes"]:
        """Of neighbours, for each class. Queries and keys have length 1."""
        similarity, neighbours = (queries @ keys.T).topk(min(self.k, len(keys)), dim=1)
        weights = (similarity / self.temperature).softmax(1)
        votes = multi_hot(labels[neighbours].flatten(0, 1), 0, classes).unflatten(0, neighbours.shape)
        return torch.einsum("qk,qkc->qc", weights, votes)
