"""A linear probe in closed form: ridge regression of the labels on frozen features.

Quick and without a learning rate to tune, which makes it fit for a report at the end of every run. The probe of the
tables in the literature, trained by gradient descent with augmentation, is another thing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class ProbeResult:
    """Held-out figures of a probe.

    Attributes:
        mean_average_precision: of each label's ranking of the held-out images, averaged over labels.
        labels: how many labels are held out at least once.
    """

    mean_average_precision: float
    labels: int


def ridge_probe(
    train_features: Float[Tensor, "train width"],
    train_labels: Int[Tensor, "train labels"],
    test_features: Float[Tensor, "test width"],
    test_labels: Int[Tensor, "test labels"],
    penalty: float = 1e-2,
) -> ProbeResult:
    """Fit one ridge regression per label on standardized features, rank the held-out images by it.

    Args:
        train_labels, test_labels: 0 or 1.
        penalty: times the number of training images, added to the diagonal.
    """
    scores = Ridge(train_features, penalty).scores(train_labels, test_features)
    present = test_labels.sum(0) > 0
    precision = average_precision(scores[:, present], test_labels[:, present])
    return ProbeResult(float(precision.mean()), int(present.sum()))


class Ridge:
    """Ridge regressions on the same standardized features, which are decomposed once.

    Args:
        features: of the training images.
        penalty: times their number, added to the diagonal.
    """

    def __init__(self, features: Float[Tensor, "train width"], penalty: float) -> None:
        self._mean, self._deviation = features.mean(0), features.std(0) + 1e-6
        self._train = self._standardize(features)
        diagonal = penalty * len(features) * torch.eye(features.shape[1], dtype=torch.float64)
        self._factor = torch.linalg.cholesky(self._train.T @ self._train + diagonal)

    def scores(
        self, labels: Int[Tensor, "train labels"] | Float[Tensor, "train labels"], test: Float[Tensor, "test width"]
    ) -> Float[Tensor, "test labels"]:
        """The labels, 0 or 1 in training, as guessed for test images, in fp64."""
        targets = labels.double()
        offset = targets.mean(0)
        weights = torch.cholesky_solve(self._train.T @ (targets - offset), self._factor)
        return self._standardize(test) @ weights + offset

    def _standardize(self, features: Float[Tensor, "images width"]) -> Float[Tensor, "images width"]:
        return ((features - self._mean) / self._deviation).double()


def average_precision(
    scores: Float[Tensor, "images labels"], labels: Int[Tensor, "images labels"] | Float[Tensor, "images labels"]
) -> Float[Tensor, " labels"]:
    """Of each label's ranking: the mean, over the images that have it, of the precision among those ranked as high.

    Images of equal score share a rank. A label that no image has gives NaN.
    """
    ranked, order = scores.sort(dim=0, descending=True)
    hits = labels.double().gather(0, order)
    places = torch.arange(len(scores), device=scores.device).unsqueeze(1)
    last = torch.ones_like(ranked, dtype=torch.bool)
    last[:-1] = ranked[:-1] != ranked[1:]
    last_of_equals = torch.where(last, places, len(scores)).flip(0).cummin(0).values.flip(0)
    # In integers: sums of others have no order on a GPU, which `deterministic` refuses.
    precision = (hits.long().cumsum(0) / (places + 1)).gather(0, last_of_equals)
    return (hits * precision).sum(0) / hits.sum(0)
