"""A linear classifier on frozen features, by gradient descent: several learning rates in one pass over the data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from tqdm import tqdm

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.evaluation.features import Features, Result, count_classes, soft_targets, top1
from maws_composer.parallel.precision import torch_device
from maws_composer.registry import register_evaluation

Positive = Annotated[int, Field(gt=0)]
LearningRate = Annotated[float, Field(gt=0)]

_FEWEST = 2  # images of a batch, or BatchNorm would divide by nothing


@register_evaluation("linear_probe")
@dataclass(frozen=True)
class LinearProbe:
    """Softmax regression after BatchNorm without affine parameters (He et al. 2021, table 10).

    Features are extracted once, so that there are no random crops, which the literature's linear probes have. Labels
    are 1 / k for each of an image's k classes. The learning rate that is best on held-out training images is used to
    train on all of them; test images choose nothing.

    Args:
        learning_rates: to try, each times the images of a step / 256.
        epochs: passes over the training images.
        warmup_epochs: linear rise of the learning rate; a half cosine to 0 follows in the other epochs.
        batch_size: images per step at most; the steps of an epoch share its images equally.
        momentum: of SGD.
        optimizer: `sgd`, or `lars`, which scales each step to the length of the weights (You et al. 2017).
        held_out: share of the training images that chooses the learning rate.
        seed: of the split, of initial weights and of the order of images.

    Raises:
        ConfigError: no epoch is left after the warm-up; or, when called, too few images are not held out.
    """

    learning_rates: Annotated[tuple[LearningRate, ...], Field(min_length=1)] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    epochs: Positive = 90
    warmup_epochs: Annotated[int, Field(ge=0)] = 10
    batch_size: Positive = 4096
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    optimizer: Literal["sgd", "lars"] = "sgd"
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.warmup_epochs >= self.epochs:
            message = f"{self.warmup_epochs} leaves none of {self.epochs} epochs to decay in; lower it"
            raise ConfigError([Problem("evaluations.linear_probe.warmup_epochs", message)])

    def __call__(self, train: Features, test: Features) -> Result:
        classes = count_classes(train, test)
        tried = self._try(train, classes)
        best = max(tried, key=lambda each: each[1])[0]
        head = self.fit(train, classes, [best])
        return Result({"top1": head.top1(test)[0], "learning_rate": best}, tried)

    def _try(self, train: Features, classes: int) -> tuple[tuple[float, float], ...]:
        """Each learning rate and its accuracy on training images that were held out."""
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(self.seed))
        held_out = math.ceil(self.held_out * len(train))
        if len(train) - held_out < _FEWEST:
            message = f"{self.held_out} of {len(train)} training images leaves {len(train) - held_out} to train on; "
            message += f"{_FEWEST} are needed"
            raise ConfigError([Problem("evaluations.linear_probe.held_out", message)])
        heads = self.fit(train.rows(order[held_out:]), classes, self.learning_rates)
        accuracies = heads.top1(train.rows(order[:held_out]))
        return tuple(zip(self.learning_rates, accuracies, strict=True))

    def fit(self, train: Features, classes: int, learning_rates: Sequence[float]) -> Heads:
        """One head per learning rate, all on the same batches."""
        device = torch_device()
        generator = torch.Generator().manual_seed(self.seed)
        heads = Heads(train.values.shape[1], classes, len(learning_rates), generator).to(device)
        velocity = [torch.zeros_like(heads.weight), torch.zeros_like(heads.bias)]
        rates = torch.tensor(learning_rates, device=device).view(-1, 1, 1)
        values, labels = train.values.to(device), train.labels.to(device)
        for rows, factor in self._steps(len(train), generator):
            chosen = rows.to(device)
            gradients = heads.gradients(values[chosen], soft_targets(labels[chosen], classes))
            if self.optimizer == "lars":
                gradients = lars(heads.weight, gradients[0]), gradients[1]
            for parameter, speed, gradient in zip((heads.weight, heads.bias), velocity, gradients, strict=True):
                speed.mul_(self.momentum).add_(gradient)
                parameter -= factor * len(rows) / 256 * rates * speed
        return heads.eval()

    def _steps(self, images: int, generator: torch.Generator) -> Iterator[tuple[Tensor, float]]:
        """The images of each step, and the factor of its learning rate."""
        per_epoch = math.ceil(images / self.batch_size)
        warmup, total = self.warmup_epochs * per_epoch, self.epochs * per_epoch
        for epoch in tqdm(range(self.epochs), desc="linear probe, epochs", leave=False, mininterval=2):
            batches = torch.randperm(images, generator=generator).tensor_split(per_epoch)
            for step, rows in enumerate(batches, epoch * per_epoch):
                progress = (step - warmup) / max(total - warmup, 1)
                yield rows, (step + 1) / warmup if step < warmup else (1 + math.cos(math.pi * progress)) / 2


class Heads(nn.Module):
    """Linear classifiers beside each other, behind one normalization of the features."""

    weight: Float[Tensor, "heads width classes"]
    bias: Float[Tensor, "heads 1 classes"]

    def __init__(self, width: int, classes: int, heads: int, generator: torch.Generator) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, affine=False, eps=1e-6)
        initial = torch.randn(width, classes, generator=generator) * 0.01  # one for all: only the rates differ
        self.register_buffer("weight", initial.repeat(heads, 1, 1))
        self.register_buffer("bias", torch.zeros(heads, 1, classes))

    def forward(self, values: Float[Tensor, "images width"]) -> Float[Tensor, "heads images classes"]:
        return self.norm(values) @ self.weight + self.bias

    def gradients(
        self, values: Float[Tensor, "images width"], targets: Float[Tensor, "images classes"]
    ) -> tuple[Float[Tensor, "heads width classes"], Float[Tensor, "heads 1 classes"]]:
        """Of each head's mean cross-entropy: by weight and by bias."""
        normal = self.norm(values)
        error = ((normal @ self.weight + self.bias).softmax(-1) - targets) / len(values)
        return normal.T @ error, error.sum(1, keepdim=True)

    def top1(self, features: Features, at_once: int = 4096) -> list[float]:
        """Accuracy of each head."""
        hits = torch.zeros(len(self.weight), dtype=torch.float64)
        for rows in torch.arange(len(features)).split(at_once):
            scores = self(features.values[rows].to(self.weight.device))
            labels = features.labels[rows].to(self.weight.device)
            hits += torch.tensor([top1(each, labels) * len(rows) for each in scores], dtype=torch.float64)
        return (hits / len(features)).tolist()


def lars(
    weight: Float[Tensor, "heads width classes"], gradient: Float[Tensor, "heads width classes"], trust: float = 1e-3
) -> Float[Tensor, "heads width classes"]:
    """The gradient of each head at `trust` times the length of its weights (You et al. 2017; mae's util/lars)."""
    lengths = [part.flatten(1).norm(dim=1).view(-1, 1, 1) for part in (weight, gradient)]
    usual = (lengths[0] == 0) | (lengths[1] == 0)
    return gradient * torch.where(usual, 1.0, trust * lengths[0] / lengths[1])
