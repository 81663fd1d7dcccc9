"""The classes that a run was trained to tell, by its own head, in chunks of classes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.data.class_preflight import known_classes
from maws_composer.data.classes import CLASSES_FILE, Classes
from maws_composer.data.sources import Shards, evaluation_shards
from maws_composer.evaluation.encoder import encoder_at
from maws_composer.evaluation.exact_map import precision_per_class
from maws_composer.evaluation.features import Features, Result
from maws_composer.evaluation.settings import Evaluation
from maws_composer.registry import register_evaluation
from maws_composer.weights.sources import Encoder, open_model

log = logging.getLogger(__name__)

KEY = "evaluations.own_head"
HEAD, BIAS = "head.weight", "head.bias"  # see weights.layouts
_HIGHEST = (1, 5)


@register_evaluation("own_head")
class OwnHead:
    """Ranks the test images by the logits of the head that the weights have, as a run of stage wsp does; nothing is
    fitted, and training images are not looked at.

    `exact_map` is the mean, over the classes that a test image has, of each ranking's average precision: exact, where
    `binned_map` of training puts probabilities into bins and normalizes them over the classes of each image.
    precision@1 and @5 are those of training: any of the labels among the k highest logits.

    Args:
        classes_at_once: more need more memory.
        run: the evaluation.

    Raises:
        ConfigError: the weights have no head, its classes are not those of data.test, or the feature is not what it is
            for.
    """

    def __init__(self, classes_at_once: Annotated[int, Field(gt=0)] = 256, *, run: Any) -> None:
        if not isinstance(run, Evaluation):
            raise _problem("needs saved weights, which evaluate.py has; training logs binned_map of its head itself")
        encoder = encoder_at(run.weights).encoder
        if HEAD not in encoder.left:
            raise _problem(f"{encoder.address} has no head, a run of stage wsp has one; remove it")
        self.classes_at_once = classes_at_once
        self._model = open_model(encoder.address)
        self.num_classes = self._model.shapes[HEAD][0]
        problems = _class_problems(run, encoder, self.num_classes)
        needed = "mean_patch_token" if encoder.averages_patches else "class_token"
        if run.feature != needed:
            problems.append(Problem("feature", f"is {run.feature}; the head of {encoder.address} needs {needed}"))
        if problems:
            raise ConfigError(problems)

    def __call__(self, train: Features, test: Features) -> Result:
        if (largest := int(test.labels.max())) >= self.num_classes:
            raise ConfigError([Problem("data.test", f"has class {largest}; the head has {self.num_classes:,} classes")])
        weight, bias = (self._model.read(name).float() for name in (HEAD, BIAS))
        highest, precisions = Highest(len(test), max(_HIGHEST)), []
        for begin in range(0, self.num_classes, self.classes_at_once):
            chunk = slice(begin, begin + self.classes_at_once)
            logits = test.values @ weight[chunk].T + bias[chunk]
            precisions.append(precision_per_class(logits, test.labels, begin))
            highest.add(logits, begin)
        found = torch.cat(precisions)
        figures = {f"precision@{k}": highest.precision_at(k, test.labels) for k in _HIGHEST}
        return Result({"exact_map": float(found.mean()), **figures, "classes": float(len(found))})


class Highest:
    """The classes of each image's highest scores, of scores that come in chunks of classes.

    Args:
        images: how many.
        k: classes that are kept of each.
    """

    def __init__(self, images: int, k: int) -> None:
        self._k = k
        self._scores = torch.empty(images, 0)
        self._classes = torch.empty(images, 0, dtype=torch.int64)

    def add(self, scores: Float[Tensor, "images classes"], begin: int) -> None:
        """Scores of the classes from `begin` on."""
        classes = torch.arange(begin, begin + scores.shape[1]).expand_as(scores)
        scores, classes = torch.cat([self._scores, scores], 1), torch.cat([self._classes, classes], 1)
        self._scores, places = scores.topk(min(self._k, scores.shape[1]))
        self._classes = classes.gather(1, places)

    def precision_at(self, k: int, labels: Int[Tensor, "images most"]) -> float:
        """Share of the images with any of their labels among the k highest."""
        hit = (self._classes[:, :k, None] == labels[:, None]).any(2).any(1)
        return float(hit.double().mean())


def _class_problems(run: Evaluation, encoder: Encoder, num_classes: int) -> list[Problem]:
    """Whether the head's classes are those of data.test, as far as `classes.json` of both tell."""
    (shards,) = evaluation_shards(run.data.test, "data.test")
    timeout = run.data.test.download_timeout
    tested = known_classes(shards, timeout)
    if tested is None:
        log.warning("%s has no %s: its labels are taken to be the head's classes", shards.address, CLASSES_FILE)
        return []
    if len(tested) != num_classes:
        message = (
            f"{shards.path(CLASSES_FILE)} has {len(tested):,} classes, the head of {encoder.address} {num_classes:,}"
        )
        return [Problem(shards.where, f"{message}; label it with the classes of the training set, or remove {KEY}")]
    trained = _trained_on(encoder.config, timeout)
    if trained is None:
        log.info("%s of the training set is not at hand: only the number of classes was compared", CLASSES_FILE)
    elif trained.digest() != tested.digest():
        message = f"{shards.path(CLASSES_FILE)} has other classes than the training set of {encoder.address}"
        return [Problem(shards.where, f"{message}; label it with the same classes, or remove {KEY}")]
    return []


def _trained_on(config: Mapping[str, Any], timeout: float) -> Classes | None:
    """The classes of the training set that a run's configuration names, if they can still be read."""
    data = (config.get("data") or {}).get("train") or {}
    for source in (data, *(data.get("streams") or {}).values()):
        if source.get("remote") or source.get("local"):
            return known_classes(Shards("data.train", "train", source.get("remote"), source.get("local")), timeout)
    return None


def _problem(message: str) -> ConfigError:
    return ConfigError([Problem(KEY, message)])
