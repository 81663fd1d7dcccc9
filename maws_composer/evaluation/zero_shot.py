"""Zero-shot classification: the class whose name, put into sentences, lies nearest to the image."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.data.classes import CLASSES_FILE
from maws_composer.data.columns import LABELS
from maws_composer.evaluation.exact_map import precision_per_class
from maws_composer.evaluation.features import Extracted, Features, Guess, Result, Towers, Words, multi_hot
from maws_composer.evaluation.retrieval import match_ranks, recall_at
from maws_composer.evaluation.texts import classifier
from maws_composer.evaluation.wording import LANGUAGES, Names, read_class_names, read_templates
from maws_composer.models.contrastive import exact_products
from maws_composer.parallel.agree import on_rank_zero
from maws_composer.parallel.precision import torch_device
from maws_composer.registry import register_evaluation

GUESSES = 5  # per picture
_SCORES = 1 << 27  # at once: 512 MB
_SYNSET = re.compile(r"n\d{8}")  # what the folders of ImageNet are called


@register_evaluation("zero_shot")
class ZeroShot:
    """Accuracy, in each language, of choosing the class whose embedding is nearest to the image's: the mean of the
    embeddings of all its names in all templates.

    An image of several classes is right with any of them. A class that is exactly as near counts as nearer. Needs the
    text tower of a LiT run. Texts are embedded on all ranks, each its share.

    Args:
        languages: such as [en, fr]; figures are `<language>/top1` and so on.
        class_names: YAML or JSON, class index or name in classes.json -> language -> names. Null: English only, from
            the classes.json of data.test.
        templates: language -> YAML file of one's own, in the place of ours or for further languages.
        only_named: classes that `class_names` leaves out are left out here too, with the images that have no other.
        multi_label: precision at 1 and mean average precision, in the place of top-1 and top-5.
    """

    columns: tuple[str, ...] = (LABELS,)

    def __init__(
        self,
        languages: Annotated[tuple[str, ...], Field(min_length=1)] = ("en",),
        class_names: str | None = None,
        templates: Mapping[str, str] | None = None,
        only_named: bool = False,
        multi_label: bool = False,
    ) -> None:
        files = templates or {}
        self.templates = {language: read_templates(language, files.get(language)) for language in languages}
        self.class_names = class_names
        self.known = sorted({*LANGUAGES, *files})
        self.only_named = only_named
        self.multi_label = multi_label

    def check(self, words: Words) -> None:
        self._names(words)

    def with_text(self, test: Extracted | None, words: Words, towers: Towers) -> Result:
        names, indices = on_rank_zero(lambda: self._names(words))
        classifiers = {
            language: classifier(towers, of_language, self.templates[language], f"zero-shot, {language}")
            for language, of_language in names.items()
        }
        return on_rank_zero(lambda: self._result(test, towers, classifiers, names, indices))

    def _names(self, words: Words) -> tuple[dict[str, Names], tuple[int, ...]]:
        """Language -> names of each class, and the indices of these classes in the dataset."""
        languages = list(self.templates)
        if self.class_names is not None:
            return read_class_names(self.class_names, languages, self.known, words.class_names, self.only_named)
        if not words.class_names:
            raise _problem("class_names", f"is missing, and data.test has no {CLASSES_FILE}; name a file with names")
        if languages != ["en"]:
            others = ", ".join(language for language in languages if language != "en")
            raise _problem("class_names", f"is missing; {CLASSES_FILE} has no names for {others}")
        if all(_SYNSET.fullmatch(name) for name in words.class_names):
            raise _problem(
                "class_names", f"is missing, and {CLASSES_FILE} has but numbers, such as {words.class_names[0]}"
            )
        names = tuple((name.replace("_", " "),) for name in words.class_names)
        return {"en": names}, tuple(range(len(names)))

    def _result(
        self,
        test: Extracted | None,
        towers: Towers,
        classifiers: Mapping[str, Float[Tensor, "classes embed"]],
        names: Mapping[str, Names],
        indices: tuple[int, ...],
    ) -> Result:
        assert test is not None
        device = torch_device()
        labels = renumbered(test.features.labels, indices)
        images = towers.project(test.features.values)
        labelled = Features(images, labels).labelled()
        if len(labelled) == 0:
            raise _problem("", "no image of data.test has one of the classes")
        figures: dict[str, float] = {}
        guesses = {}
        for language, rows in classifiers.items():
            measure = multi_label_figures if self.multi_label else accuracies
            found = measure(labelled.values.to(device), labelled.labels.to(device), rows.to(device))
            figures |= {f"{language}/{name}": value for name, value in found.items()}
            best = (images[test.pictured] @ rows.T).topk(min(GUESSES, len(rows))).indices
            guesses[language] = [
                [Guess(names[language][index][0], index in own) for index in chosen]
                for chosen, own in zip(best.tolist(), labels[test.pictured].tolist(), strict=True)
            ]
        figures |= {f"chance/{name}": value for name, value in self._chance(labelled.labels, len(indices)).items()}
        return Result(figures | {"classes": float(len(indices)), "images": float(len(labelled))}, guesses=guesses)

    def _chance(self, labels: Int[Tensor, "images most"], classes: int) -> dict[str, float]:
        """What guessing gives; and of several labels, what always saying the most frequent class does."""
        own = (labels >= 0).sum(1).double()  # different ones
        if self.multi_label:
            shares = multi_hot(labels, 0, classes).mean(0)
            return {
                "precision_at_1": float(own.mean() / classes),
                "precision_at_1_of_the_most_frequent": float(shares.max()),
                "exact_map": float(shares[shares > 0].mean()),
            }
        missed = torch.ones_like(own)
        for drawn in range(min(5, classes)):
            missed *= ((classes - own - drawn) / (classes - drawn)).clamp(min=0)
        return {"top1": float(own.mean() / classes), "top5": float(1 - missed.mean())}


def renumbered(labels: Int[Tensor, "images most"], indices: tuple[int, ...]) -> Int[Tensor, "images most"]:
    """The places of the labels in `indices`, -1 for those that are not in it."""
    most = max(int(labels.max()), max(indices))
    places = torch.full((most + 2,), -1)  # the last is for -1
    places[list(indices)] = torch.arange(len(indices))
    return places[labels]


def accuracies(
    images: Float[Tensor, "images embed"], labels: Int[Tensor, "images most"], rows: Float[Tensor, "classes embed"]
) -> dict[str, float]:
    """Share of the images one of whose classes is the first, or among the first five. Every image has a class.

    A class that is exactly as near counts as nearer.
    """
    ranks = match_ranks(images, rows, labels.sort(1, descending=True).values)
    return {"top1": recall_at(ranks, 1), "top5": recall_at(ranks, 5)}


def multi_label_figures(
    images: Float[Tensor, "images embed"], labels: Int[Tensor, "images most"], rows: Float[Tensor, "classes embed"]
) -> dict[str, float]:
    """Share of the images whose first class is one of theirs; and the mean, over classes that an image has, of the
    average precision of each class's ranking of the images. Images that are exactly as near share a rank."""
    at_once = max(1, _SCORES // len(images))
    with exact_products(images.device):
        precisions = [
            precision_per_class(images @ rows[begin : begin + at_once].T, labels, begin)
            for begin in range(0, len(rows), at_once)
        ]
    return {
        "precision_at_1": accuracies(images, labels, rows)["top1"],
        "exact_map": float(torch.cat(precisions).mean()),
    }


def _problem(argument: str, message: str) -> ConfigError:
    return ConfigError([Problem(f"evaluations.zero_shot.{argument}".rstrip("."), message)])
