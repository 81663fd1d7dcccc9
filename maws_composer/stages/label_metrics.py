"""How well logits fit the labels of images that have several, in memory that does not grow with the data.

All metrics are updated alike: logits (batch, classes), class indices (batch, labels) filled up with negative numbers,
and valid (batch,), which is False for rows that only fill a batch. Images without labels weigh nothing.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric

from maws_composer.models.classifier import soft_label_cross_entropy

THIRDS = ("head", "middle", "tail")
_BINS, _WIDTH = 200, 0.1  # log-probabilities from 0 to -20; below that they count as equal

Logits = Float[Tensor, "batch classes"]
Labels = Int[Tensor, "batch labels"]
Valid = Bool[Tensor, " batch"]


class LabelLoss(Metric):
    """Mean `soft_label_cross_entropy`."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Logits, labels: Labels, valid: Valid) -> None:
        counted = valid & (labels >= 0).any(1)
        self.total += soft_label_cross_entropy(logits, labels)[counted].sum()
        self.count += counted.sum()

    def compute(self) -> Tensor:
        return (self.total / self.count).float()


class PrecisionAt(Metric):
    """Share of images with any of their labels among the k classes of the highest logits.

    Args:
        k: classes that count.
        third: "head", "middle" or "tail" for images whose rarest label lies in that third of the classes alone; classes
            are numbered from the most frequent to the rarest. None: all images.
    """

    full_state_update = False

    def __init__(self, k: int, third: str | None = None) -> None:
        super().__init__()
        self.k = k
        self.third = None if third is None else THIRDS.index(third)
        self.add_state("hits", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Logits, labels: Labels, valid: Valid) -> None:
        if not labels.shape[1]:
            return
        classes, rarest = logits.shape[1], labels.amax(1)
        counted = valid & (rarest >= 0)
        if self.third is not None:
            counted &= rarest * len(THIRDS) // classes == self.third
        best = logits.topk(min(self.k, classes)).indices
        hit = (best.unsqueeze(2) == labels.unsqueeze(1)).any(2).any(1)
        self.hits += (hit & counted).sum()
        self.count += counted.sum()

    def compute(self) -> Tensor:
        """NaN if no image counted."""
        return self.hits / self.count


class BinnedMeanAveragePrecision(Metric):
    """Average precision of each class that any image has, by its probability in bins, and the mean of these.

    Probabilities of many classes are tiny, so the bins are of equal width in their logarithm. Images in one bin count
    as equally probable, which is all that makes this differ from the exact figure. Memory: 16 bytes per class and bin,
    90 MB for 28,000 classes.

    Args:
        num_classes: columns of the logits.
    """

    full_state_update = False

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        for name in ("images", "with_label"):
            self.add_state(name, torch.zeros(num_classes, _BINS, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Logits, labels: Labels, valid: Valid) -> None:
        counted = valid & (labels >= 0).any(1)
        logits, labels = logits[counted], labels[counted]
        bins = (logits.float().log_softmax(1) / -_WIDTH).long().clamp(0, _BINS - 1)
        cells = bins + _BINS * torch.arange(logits.shape[1], device=logits.device)
        row, column = (labels >= 0).nonzero(as_tuple=True)
        self.images += self._count(cells.flatten())
        self.with_label += self._count(cells[row, labels[row, column]])

    def compute(self) -> Tensor:
        """NaN if no image counted."""
        found, shown = self.with_label.cumsum(1), self.images.cumsum(1)  # from the most probable bin on
        total = found[:, -1]
        gained = (self.with_label * found / shown.clamp(min=1)).sum(1)
        return (gained / total)[total > 0].mean()

    def _count(self, cells: Int[Tensor, " cells"]) -> Int[Tensor, "classes bins"]:
        return cells.bincount(minlength=self.images.numel()).view_as(self.images)
