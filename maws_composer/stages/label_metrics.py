"""How well logits fit the labels of images that have several, in memory that does not grow with the data.

All metrics are updated alike: logits (batch, classes), class indices (batch, labels) filled up with negative numbers,
and valid (batch,), which is False for rows that only fill a batch. Images without labels weigh nothing: where there are
such, `LabelLoss` is above the loss of training, which counts them as 0.

Classes that are numbered from the most frequent to the rarest have thirds: head, middle and tail.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric

from maws_composer.models.classifier import soft_label_cross_entropy

THIRDS = ("head", "middle", "tail")
_BINS, _HIGHEST, _WIDTH = 400, 20.0, 0.1  # log-odds from 20 to -20; beyond these they count as equal

Logits = Float[Tensor, "batch classes"]
Labels = Int[Tensor, "batch labels"]
Valid = Bool[Tensor, " batch"]


def class_range(third: str | None, num_classes: int) -> tuple[int, int]:
    """The first class of a third, and the one after its last; None: of all classes."""
    if third is None:
        return 0, num_classes
    number = THIRDS.index(third)
    return math.ceil(number * num_classes / len(THIRDS)), math.ceil((number + 1) * num_classes / len(THIRDS))


def bytes_of_bins(num_classes: int) -> int:
    """Of `BinnedMeanAveragePrecision`: two counts in int32 of each class and bin, and the zeros they begin with."""
    return 2 * 2 * 4 * _BINS * num_classes


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
        third: "head", "middle" or "tail": among the classes of that third alone, for the images that have one of
            them. Among all classes, saying frequent ones would do well in the tail, or nobody would. None: all.
    """

    full_state_update = False

    def __init__(self, k: int, third: str | None = None) -> None:
        super().__init__()
        self.k = k
        self.third = third
        self.add_state("hits", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Logits, labels: Labels, valid: Valid) -> None:
        if not labels.shape[1]:
            return
        first, end = class_range(self.third, logits.shape[1])
        counted = valid & ((labels >= first) & (labels < end)).any(1)
        best = first + logits[:, first:end].topk(min(self.k, end - first)).indices
        hit = (best.unsqueeze(2) == labels.unsqueeze(1)).any(2).any(1)
        self.hits += (hit & counted).sum()
        self.count += counted.sum()

    def compute(self) -> Tensor:
        """NaN if no image counted."""
        return self.hits / self.count


class BinnedMeanAveragePrecision(Metric):
    """Average precision of each class that any image has, by its log-odds in bins, and the mean of these.

    Bins are of equal width in log p - log(1 - p), so that neither the tiny probabilities of many classes nor those near
    1 of a confident model share one. Images in one bin count as equally probable, which is all that makes this differ
    from the exact figure. Memory: 8 bytes per class and bin, 90 MB for 28,000 classes, as much for the zeros that
    torchmetrics keeps, and for a moment, when it is computed, four and a half times 90 MB.

    Args:
        num_classes: columns of the logits.
        third: "head", "middle" or "tail" for the classes of that third, with all images. None: all classes.
    """

    full_state_update = False

    def __init__(self, num_classes: int, third: str | None = None) -> None:
        super().__init__()
        self.first, self.end = class_range(third, num_classes)
        for name in ("images", "with_label"):  # in int32: more than two billion images are evaluated nowhere
            states = torch.zeros(self.end - self.first, _BINS, dtype=torch.int32)
            self.add_state(name, states, dist_reduce_fx="sum")

    def update(self, logits: Logits, labels: Labels, valid: Valid) -> None:
        counted = valid & (labels >= 0).any(1)
        logits, labels = logits[counted], labels[counted]
        # In fp64: in fp32, all probabilities above 1 - 6e-8 are 1.
        logarithms = logits.double().log_softmax(1)[:, self.first : self.end]
        log_odds = logarithms - (-logarithms.expm1()).log()
        bins = ((_HIGHEST - log_odds) / _WIDTH).clamp(0, _BINS - 1).long()
        cells = bins + _BINS * torch.arange(self.end - self.first, device=logits.device)
        row, column = ((labels >= self.first) & (labels < self.end)).nonzero(as_tuple=True)
        self.images += self._count(cells.flatten())
        self.with_label += self._count(cells[row, labels[row, column] - self.first])

    def compute(self) -> Tensor:
        """NaN if no image counted."""
        found, shown = self.with_label.cumsum(1), self.images.cumsum(1)  # from the most probable bin on
        total = found[:, -1]
        gained = (self.with_label * found / shown.clamp(min=1)).sum(1)
        return (gained / total)[total > 0].mean()

    def _sync_dist(self, dist_sync_fn: Any = None, process_group: Any = None) -> None:
        """Sums. Torchmetrics would first gather everybody's: on 256 GPUs 34 GB on each."""
        for name in ("images", "with_label"):
            total = getattr(self, name).clone()  # it gets its own back
            dist.all_reduce(total, group=process_group)
            setattr(self, name, total)

    def _count(self, cells: Int[Tensor, " cells"]) -> Int[Tensor, "classes bins"]:
        return cells.bincount(minlength=self.images.numel()).view_as(self.images)
