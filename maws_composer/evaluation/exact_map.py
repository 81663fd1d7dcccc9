"""Mean average precision of many classes, exactly, in chunks of classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from maws_composer.evaluation.features import Features, Result, count_classes, multi_hot
from maws_composer.evaluation.ridge_probe import Ridge, average_precision
from maws_composer.registry import register_evaluation


@register_evaluation("exact_map")
@dataclass(frozen=True)
class ExactMap:
    """Ranks the test images by a ridge regression of each class; the mean, over classes, of each ranking's average
    precision. Classes that no test image has do not count.

    Exact, while `binned_map` of training is binned: scores are compared with each other, not with thresholds.

    Args:
        penalty: of the ridge regression, times the number of training images.
        classes_at_once: more need more memory.
    """

    penalty: Annotated[float, Field(gt=0)] = 1e-2
    classes_at_once: Annotated[int, Field(gt=0)] = 256

    def __call__(self, train: Features, test: Features) -> Result:
        ridge, classes = Ridge(train.values, self.penalty), count_classes(train, test)
        precisions = []
        for begin in range(0, classes, self.classes_at_once):
            end = min(begin + self.classes_at_once, classes)
            scores = ridge.scores(multi_hot(train.labels, begin, end), test.values)
            precisions.append(precision_per_class(scores, test.labels, begin))
        found = torch.cat(precisions)
        return Result({"exact_map": float(found.mean()), "classes": float(len(found))})


def precision_per_class(
    scores: Float[Tensor, "images classes"], labels: Int[Tensor, "images most"], begin: int
) -> Float[Tensor, " present"]:
    """Average precision of each of the classes from `begin` on that an image has.

    Args:
        scores: any, such as a head's logits.
        labels: class indices, padded with -1.
    """
    hot = multi_hot(labels, begin, begin + scores.shape[1])
    present = hot.any(0)
    return average_precision(scores[:, present], hot[:, present])
