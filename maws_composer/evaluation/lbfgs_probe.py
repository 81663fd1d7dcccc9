"""A linear classifier on frozen features at the optimum of its loss: quick, with no learning rate to choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from maws_composer.evaluation.features import Features, Result, count_classes, soft_targets, top1
from maws_composer.parallel.precision import torch_device
from maws_composer.registry import register_evaluation

_AT_ONCE = 16_384  # images


@register_evaluation("linear_probe_lbfgs")
@dataclass(frozen=True)
class LbfgsProbe:
    """Softmax regression on standardized features by L-BFGS, with 1 / k for each of an image's k classes.

    Args:
        penalty: half of it times the squared weights is added to the mean cross-entropy.
        max_iterations: after which it stops at the latest.
    """

    penalty: Annotated[float, Field(ge=0)] = 1e-3
    max_iterations: Annotated[int, Field(gt=0)] = 200

    def __call__(self, train: Features, test: Features) -> Result:
        mean, deviation = train.values.mean(0), train.values.std(0) + 1e-6
        train, test = (Features((part.values - mean) / deviation, part.labels) for part in (train, test))
        weight, bias = self.fit(train, count_classes(train, test))
        hits = 0.0
        for rows in torch.arange(len(test)).split(_AT_ONCE):
            scores = test.values[rows].to(weight) @ weight + bias
            hits += top1(scores, test.labels[rows].to(weight.device)) * len(rows)
        return Result({"top1": hits / len(test)})

    def fit(self, train: Features, classes: int) -> tuple[Float[Tensor, "width classes"], Float[Tensor, " classes"]]:
        """Weight and bias, in fp64, in which the search does not get stuck."""
        device = torch_device()
        weight = torch.zeros(train.values.shape[1], classes, dtype=torch.float64, device=device)
        bias = torch.zeros(classes, dtype=torch.float64, device=device)
        weight.grad, bias.grad = torch.zeros_like(weight), torch.zeros_like(bias)
        parts = [train.rows(rows) for rows in torch.arange(len(train)).split(_AT_ONCE)]
        optimizer = torch.optim.LBFGS(
            [weight, bias],
            max_iter=self.max_iterations,
            tolerance_grad=1e-7,
            tolerance_change=1e-12,
            line_search_fn="strong_wolfe",
        )

        def loss_and_gradient() -> Tensor:
            # In chunks, in closed form: autograd would keep several (images, classes) at once.
            loss = self.penalty / 2 * weight.square().sum()
            gradient_weight, gradient_bias = self.penalty * weight, torch.zeros_like(bias)
            for part in parts:
                values = part.values.to(weight)
                targets = soft_targets(part.labels.to(device), classes).to(weight)
                logarithms = (values @ weight + bias).log_softmax(1)
                error = (logarithms.exp() - targets) / len(train)
                loss -= (targets * logarithms).sum() / len(train)
                gradient_weight += values.T @ error
                gradient_bias += error.sum(0)
            weight.grad, bias.grad = gradient_weight, gradient_bias
            return loss

        optimizer.step(loss_and_gradient)
        return weight, bias
