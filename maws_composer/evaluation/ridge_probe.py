"""A linear probe in closed form: ridge regression of the labels on frozen features.

Quick and without a learning rate to tune, which makes it fit for a report at the end of every run. The probe of the
tables in the literature, trained by gradient descent with augmentation, is another thing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics.functional.classification import multilabel_average_precision


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
    mean, std = train_features.mean(0), train_features.std(0) + 1e-6
    train = ((train_features - mean) / std).double()
    test = ((test_features - mean) / std).double()
    targets = train_labels.double()
    offset = targets.mean(0)
    gram = train.T @ train + penalty * len(train) * torch.eye(train.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, train.T @ (targets - offset))
    scores = test @ weights + offset
    present = test_labels.sum(0) > 0
    precision = multilabel_average_precision(
        scores[:, present].sigmoid(), test_labels[:, present].long(), num_labels=int(present.sum()), average="macro"
    )
    return ProbeResult(float(precision), int(present.sum()))
