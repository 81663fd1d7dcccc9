"""Every foreseeable failure of an evaluation, before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from maws_composer.config.build import build
from maws_composer.config.load import Loaded
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.data.class_preflight import known_classes
from maws_composer.data.classes import CLASSES_FILE
from maws_composer.data.columns import CAPTION, LABELS
from maws_composer.data.index import missing_folder
from maws_composer.data.label_preflight import label_problems
from maws_composer.data.preflight import check_sources
from maws_composer.data.scratch import free_abandoned
from maws_composer.data.settings import EvalData
from maws_composer.data.sources import evaluation_shards
from maws_composer.disks import check_writable
from maws_composer.evaluation.encoder import encoder_at
from maws_composer.evaluation.features import Evaluate, EvaluateWithText
from maws_composer.evaluation.settings import Evaluation, needs_training_images
from maws_composer.evaluation.suite import columns_for, read_words
from maws_composer.evaluation.towers import find_image_text, places_of, text_problems
from maws_composer.outages import OutageError, insist, problems_of_mistake
from maws_composer.registry import lookup


def on_disk(run: Evaluation) -> list[Problem]:
    """What is wrong with this machine's folders, whatever other keys say: of an evaluation with mistakes elsewhere."""
    sources = {"data.test": run.data.test}
    if needs_training_images(run.evaluations):
        sources = {"data.train": run.data.train, **sources}
    shards = [each for key, data in sources.items() for each in evaluation_shards(data, key)]
    problems = [missing_folder(each) for each in shards if each.address and not each.is_there]
    return [*problems, *check_writable("save_folder", Path(run.save_folder))]


class Images(NamedTuple):
    """A section of images that an evaluation reads.

    Attributes:
        data: the section.
        columns: to be read besides image and id.
    """

    data: EvalData
    columns: Sequence[str]


def preflight(loaded: Loaded[Evaluation]) -> None:
    """Look at weights and data, in one process of a node, before processes are joined.

    Raises:
        ConfigError: with all problems at once.
        StorageError: object storage was away for longer than `storage_patience`.
    """
    free_abandoned(loaded.run.speed.scratch_folder, loaded.run.save_folder)
    insist(
        lambda: _look(loaded),
        "looking at the weights and the data",
        loaded.run.storage_patience,
        unless=lambda error: not isinstance(error, OutageError),
    )


def _look(loaded: Loaded[Evaluation]) -> None:
    run = loaded.run
    size, of_weights = _check_weights(run)
    evaluations, refused = _built(run)
    images = {"data.test": Images(run.data.test, columns_for(evaluations))}
    if needs_training_images(run.evaluations):
        images = {"data.train": Images(run.data.train, (LABELS,)), **images}
    folder = check_writable("save_folder", Path(run.save_folder))
    problems = [*of_weights, *image_problems(images, size), *([] if of_weights else refused), *folder]
    if problems := problems or _text_problems(run, evaluations):
        raise ConfigError(loaded.locate(problems))


def image_problems(images: Mapping[str, Images], image_size: int | None) -> list[Problem]:
    """What is wrong with images: whether they can be read, and whether their labels are classes, the same in all.

    Args:
        images: by the key of their section, such as "data.test".
        image_size: side of the crop; None if it is not known.

    Raises:
        OutageError: object storage is away, so that nothing can be known.
    """
    problems = []
    for key, (data, columns) in images.items():
        if data.resize is not None and image_size is not None and data.resize < image_size:
            problems.append(Problem(f"{key}.resize", f"{data.resize} is less than the image_size, {image_size}"))
        problems += check_sources({key: data}, columns, optional=(CAPTION,))
    return problems or _label_problems({key: data for key, (data, columns) in images.items() if LABELS in columns})


def word_problems(evaluations: Iterable[EvaluateWithText], data: EvalData, key: str) -> list[Problem]:
    """Whether class names and captions are there, in files or beside the images of the section `key`."""
    try:
        words = read_words(data, key)
    except ConfigError as error:
        return error.problems
    problems: list[Problem] = []
    for evaluation in evaluations:
        try:
            evaluation.check(words)
        except ConfigError as error:
            problems += error.problems
    return problems


def _label_problems(labelled: Mapping[str, EvalData]) -> list[Problem]:
    problems: list[Problem] = []
    first: tuple[str, str] | None = None
    for key, data in labelled.items():
        sources = evaluation_shards(data, key)
        try:
            classes = known_classes(sources[0], data.download_timeout)
        except ConfigError as error:
            problems += error.problems
            continue
        if classes is None:
            continue
        first = first or (key, classes.digest())
        if classes.digest() != first[1]:
            problems.append(Problem(key, f"its {CLASSES_FILE} numbers other classes than that of {first[0]}"))
        problems += label_problems(sources, data, len(classes))
    return problems


def _check_weights(run: Evaluation) -> tuple[int | None, list[Problem]]:
    """The size of images, if the weights are there, and what is wrong with them."""
    try:
        places = places_of(run.weights, run.image_tower, run.text_tower)
        trained = encoder_at(places.image_tower)
    except ConfigError as error:
        return None, problems_of_mistake(error)
    size = run.image_size or places.image_size
    problems = []
    if trained.encoder.averages_patches and run.feature == "class_token":
        problems.append(Problem("feature", "these weights were fine-tuned on mean_patch_token"))
    try:
        replace(trained.size, patch_size=run.patch_size or trained.size.patch_size).grid(size)
    except ValueError as error:
        problems.append(Problem("image_size", str(error)))
    return size, problems


def _built(run: Evaluation) -> tuple[dict[str, Evaluate | EvaluateWithText], list[Problem]]:
    """The evaluations that can be made, and what the others refuse."""
    evaluations, problems = {}, []
    for name, arguments in run.evaluations.items():
        try:
            evaluations[name] = build(lookup("evaluation", name), arguments, run)
        except ConfigError as error:
            problems += error.problems
    return evaluations, problems


def _text_problems(run: Evaluation, evaluations: Mapping[str, Evaluate | EvaluateWithText]) -> list[Problem]:
    """Whether there is what evaluations with text need: a text tower, class names and captions."""
    with_text = [evaluation for evaluation in evaluations.values() if isinstance(evaluation, EvaluateWithText)]
    if not with_text:
        return []
    try:
        model = find_image_text(run.weights, run.image_tower, run.text_tower)
    except ConfigError as error:
        return problems_of_mistake(error)
    if model is None:
        if len(with_text) < len(evaluations):
            return []
        return [Problem("weights", f"{run.weights} has no text tower, which all of these evaluations need")]
    problems = text_problems(model.text)
    if run.feature != "class_token":
        problems.append(Problem("feature", "evaluations with text look at class tokens; set it to class_token"))
    return [*problems, *word_problems(with_text, run.data.test, "data.test")]
