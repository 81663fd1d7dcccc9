"""Every foreseeable failure of an evaluation, before anything is computed."""

from __future__ import annotations

from dataclasses import replace

from maws_composer.config.load import Loaded
from maws_composer.config.plugins import build
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.data.class_preflight import known_classes
from maws_composer.data.classes import CLASSES_FILE
from maws_composer.data.columns import LABELS
from maws_composer.data.preflight import check_sources
from maws_composer.data.settings import EvalData
from maws_composer.data.sources import evaluation_shards
from maws_composer.evaluation.encoder import encoder_at
from maws_composer.evaluation.settings import Evaluation
from maws_composer.registry import lookup


def preflight(loaded: Loaded[Evaluation]) -> None:
    """Look at weights and data, in one process of a node, before processes are joined.

    Raises:
        ConfigError: with all problems at once.
    """
    run = loaded.run
    sources = {"data.train": run.data.train, "data.test": run.data.test}
    problems = [*_weights_problems(run), *check_sources(sources, (LABELS,))]
    if not problems and len(set(filter(None, map(_numbering, sources.values())))) > 1:
        problems.append(Problem("data.test", f"its {CLASSES_FILE} numbers other classes than that of data.train"))
    problems = problems or _evaluation_problems(run)
    if problems:
        raise ConfigError(loaded.locate(problems))


def _weights_problems(run: Evaluation) -> list[Problem]:
    try:
        trained = encoder_at(run.weights)
    except ConfigError as error:
        return error.problems
    size = run.image_size or trained.image_size
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


def _evaluation_problems(run: Evaluation) -> list[Problem]:
    """What evaluations refuse when they are made."""
    problems = []
    for name, arguments in run.evaluations.items():
        try:
            build(lookup("evaluation", name), arguments, run)
        except ConfigError as error:
            problems += error.problems
    return problems


def _numbering(data: EvalData) -> str | None:
    """What the class indices mean, if the dataset says so."""
    classes = known_classes(evaluation_shards(data)[0], data.download_timeout)
    return classes.digest() if classes else None
