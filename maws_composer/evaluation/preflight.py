"""Every foreseeable failure of an evaluation, before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from maws_composer.config.load import Loaded
from maws_composer.config.plugins import build
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.data.class_preflight import known_classes
from maws_composer.data.classes import CLASSES_FILE
from maws_composer.data.columns import CAPTION, LABELS
from maws_composer.data.preflight import check_sources
from maws_composer.data.settings import EvalData
from maws_composer.data.sources import evaluation_shards
from maws_composer.evaluation.encoder import encoder_at
from maws_composer.evaluation.features import Evaluate, EvaluateWithText
from maws_composer.evaluation.settings import Evaluation, needs_training_images
from maws_composer.evaluation.suite import columns_for, read_words
from maws_composer.evaluation.towers import find_image_text, places_of, text_problems
from maws_composer.registry import lookup


def preflight(loaded: Loaded[Evaluation]) -> None:
    """Look at weights and data, in one process of a node, before processes are joined.

    Raises:
        ConfigError: with all problems at once.
    """
    run = loaded.run
    problems = of_weights = _weights_problems(run)
    evaluations, refused = _built(run)
    if needs_training_images(run.evaluations):
        problems = problems + check_sources({"data.train": run.data.train}, (LABELS,))
    problems = problems + check_sources({"data.test": run.data.test}, columns_for(evaluations), (CAPTION,))
    if not of_weights:
        problems = problems + refused
    if not problems:
        problems = [*_numbering_problems(run), *_words_problems(run, evaluations)]
    if problems:
        raise ConfigError(loaded.locate(problems))


def _weights_problems(run: Evaluation) -> list[Problem]:
    try:
        places = places_of(run.weights, run.image_tower, run.text_tower)
        trained = encoder_at(places.image_tower)
    except ConfigError as error:
        return error.problems
    size = run.image_size or places.image_size
    problems = [
        Problem(f"data.{name}.resize", f"{data.resize} is less than the image_size, {size}")
        for name, data in (("train", run.data.train), ("test", run.data.test))
        if data.resize is not None and data.resize < size
    ]
    if trained.encoder.averages_patches and run.feature == "class_token":
        problems.append(Problem("feature", "these weights were fine-tuned on mean_patch_token"))
    try:
        replace(trained.size, patch_size=run.patch_size or trained.size.patch_size).grid(size)
    except ValueError as error:
        problems.append(Problem("image_size", str(error)))
    return problems


def _built(run: Evaluation) -> tuple[dict[str, Evaluate | EvaluateWithText], list[Problem]]:
    """The evaluations that can be made, and what the others refuse."""
    evaluations, problems = {}, []
    for name, arguments in run.evaluations.items():
        try:
            evaluations[name] = build(lookup("evaluation", name), arguments, run)
        except ConfigError as error:
            problems += error.problems
    return evaluations, problems


def _numbering_problems(run: Evaluation) -> list[Problem]:
    data = [run.data.train, run.data.test] if needs_training_images(run.evaluations) else [run.data.test]
    if len(set(filter(None, map(_numbering, data)))) > 1:
        return [Problem("data.test", f"its {CLASSES_FILE} numbers other classes than that of data.train")]
    return []


def _words_problems(run: Evaluation, evaluations: Mapping[str, Evaluate | EvaluateWithText]) -> list[Problem]:
    """Whether class names and captions are there, for evaluations that need them."""
    with_text = [evaluation for evaluation in evaluations.values() if isinstance(evaluation, EvaluateWithText)]
    if not with_text:
        return []
    try:
        model = find_image_text(run.weights, run.image_tower, run.text_tower)
        problems = text_problems(model.text) if model is not None else []
        if model is not None and run.feature != "class_token":
            problems.append(Problem("feature", "evaluations with text look at class tokens; set it to class_token"))
        if model is None and len(with_text) == len(evaluations):
            problems.append(Problem("weights", f"{run.weights} has no text tower, which all of these evaluations need"))
        words = read_words(run.data.test, "data.test")
    except ConfigError as error:
        return error.problems
    for evaluation in with_text if model is not None else ():
        try:
            evaluation.check(words)
        except ConfigError as error:
            problems += error.problems
    return problems


def _numbering(data: EvalData) -> str | None:
    """What the class indices mean, if the dataset says so."""
    classes = known_classes(evaluation_shards(data)[0], data.download_timeout)
    return classes.digest() if classes else None
