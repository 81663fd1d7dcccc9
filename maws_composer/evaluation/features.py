"""What an evaluation is given, what it gives, and the ways to look at labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Features:
    """What a frozen encoder makes of a dataset, in the dataset's order, on the CPU.

    Attributes:
        values: one row per image, in fp32.
        labels: class indices, several per image, padded with -1.
    """

    values: Float[Tensor, "images width"]
    labels: Int[Tensor, "images most"]

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, chosen: Tensor) -> Features:
        """Some of the images, by index or by mask."""
        return Features(self.values[chosen], self.labels[chosen])

    def labelled(self) -> Features:
        """Without the images that have no label."""
        return self.rows((self.labels >= 0).any(1))


@dataclass(frozen=True)
class Extracted:
    """Features of a dataset, and what else is kept of it.

    Attributes:
        features: of every image that can be used.
        ids: of the same images.
        captions: of the same images, "" for none; () without such a column.
        pictures: some images, for people to look at.
        pictured: which ones they are.
    """

    features: Features
    ids: tuple[str, ...]
    captions: tuple[str, ...]
    pictures: UInt8[Tensor, "pictures 3 height width"]
    pictured: Int[Tensor, " pictures"]


@dataclass(frozen=True)
class Words:
    """What a dataset says in files beside its shards.

    Attributes:
        class_names: by index, from `classes.json`; () without.
        captions: id of an image -> language -> caption, from `captions.json`; empty without.
    """

    class_names: tuple[str, ...] = ()
    captions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


class Guess(NamedTuple):
    """A text that a model found to fit an image, and whether it does."""

    text: str
    is_right: bool


@dataclass(frozen=True)
class Result:
    """What an evaluation found.

    Attributes:
        figures: name -> value; accuracies and precisions from 0 to 1.
        learning_rates: those that were tried, each with its accuracy on held-out training images; () for none.
        guesses: language -> the best texts for each of the pictures of `Extracted`, the best first; {} for none.
    """

    figures: dict[str, float]
    learning_rates: tuple[tuple[float, float], ...] = ()
    guesses: Mapping[str, Sequence[Sequence[Guess]]] = field(default_factory=dict)


class Evaluate(Protocol):
    """A registered evaluation, made with its arguments. Every image has a label."""

    def __call__(self, train: Features, test: Features) -> Result: ...


class Towers(Protocol):
    """A model of images and texts in one space. What it gives is fp32, on the CPU, and each row has length 1."""

    def project(self, features: Float[Tensor, "images width"]) -> Float[Tensor, "images embed"]:
        """From the class tokens that its encoder gives. Each rank for itself."""

    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "texts embed"]:
        """A collective: equally many texts on every rank, each rank its own."""


@runtime_checkable
class EvaluateWithText(Protocol):
    """A registered evaluation that needs no training images, but a text tower.

    Attributes:
        columns: those of the test images that it needs, besides image and id.
    """

    columns: tuple[str, ...]

    def check(self, words: Words) -> None:
        """Raise ConfigError if it cannot be done with what the test images' dataset says."""

    def with_text(self, test: Extracted | None, words: Words, towers: Towers) -> Result:
        """A collective; `test` is None on ranks other than 0. The result is the same on all."""


def count_classes(*parts: Features) -> int:
    """One more than the largest class index in any of the parts."""
    return 1 + max(int(part.labels.max()) for part in parts)


def multi_hot(labels: Int[Tensor, "images most"], begin: int, end: int) -> Float[Tensor, "images classes"]:
    """1 where an image has a class, 0 elsewhere, for the classes from `begin` to `end`, which is not among them."""
    inside = (labels >= begin) & (labels < end)
    hot = torch.zeros(len(labels), end - begin + 1, device=labels.device)
    return hot.scatter(1, torch.where(inside, labels - begin, end - begin), 1.0)[:, :-1]


def soft_targets(labels: Int[Tensor, "images most"], classes: int) -> Float[Tensor, "images classes"]:
    """1 / k for each of an image's k classes (Mahajan et al. 2018)."""
    hot = multi_hot(labels, 0, classes)
    return hot / hot.sum(1, keepdim=True).clamp(min=1)


def top1(scores: Float[Tensor, "images classes"], labels: Int[Tensor, "images most"]) -> float:
    """Share of the images whose highest score is that of any of their classes."""
    hits = (scores.argmax(1, keepdim=True) == labels).any(1)
    return float(hits.double().mean())
