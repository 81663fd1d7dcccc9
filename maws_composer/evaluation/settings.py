"""Everything that evaluate.py is told, as one checked object."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from maws_composer.config.check import check, signature_of
from maws_composer.config.load import Loaded, Schema, load
from maws_composer.config.plugins import our_code_paths
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.config.run import Arguments, Precision
from maws_composer.data.settings import EvalData, Positive
from maws_composer.evaluation.extraction import Feature
from maws_composer.parallel.settings import ForwardSpeed
from maws_composer.registry import lookup
from maws_composer.registry import names as registered_names
from maws_composer.resilience.settings import WatchdogSettings


@dataclass(frozen=True, kw_only=True)
class EvaluationData:
    """Labelled images: what a probe is trained on, and what it is tested on.

    Args:
        train: not read if no evaluation needs it.
        test: what figures are about; evaluations of captions need no labels.
    """

    train: EvalData = field(default_factory=EvalData)
    test: EvalData


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation of an encoder.

    Args:
        weights: a run, whose newest checkpoint is evaluated, a checkpoint, an export, or a ViT of MAE, MAWS, timm or
            Hugging Face; local or in object storage.
        data: labelled images.
        evaluations: name -> arguments.
        feature: of an image: its class token, or the mean of its patch tokens.
        image_tower: where it is, of weights without one. Null: what their run began with.
        text_tower: name or folder of the text tower's configuration and tokenizer. Null: those of the run.
        image_size: side of the square crop, in pixels; positions are resampled to it. Null: that of the weights.
        patch_size: the patch embedding is resampled to it. Null: that of the weights.
        precision: of the encoder: `fp32`, `tf32` or `amp_bf16`.
        run_name: default: the name of the YAML.
        save_folder: local folder of features and results. Default: evaluations/<run_name>-<name of the weights>.
        code_paths: files, folders (from the working directory) or modules whose plugins are registered.
        storage_patience: seconds that object storage may be away before the evaluation stops.
        watchdog: when ranks that hang, or are not heard of, end it.
        speed: what changes only speed.
    """

    weights: str
    data: EvaluationData
    evaluations: Annotated[dict[str, Arguments | None], Field(min_length=1)]
    feature: Feature = "class_token"
    image_tower: str | None = None
    text_tower: str | None = None
    image_size: Positive | None = None
    patch_size: Positive | None = None
    precision: Precision = "fp32"
    run_name: str = "evaluation"
    save_folder: str = ""
    code_paths: list[str] = field(default_factory=list)
    storage_patience: Annotated[float, Field(gt=0)] = 1800.0
    watchdog: WatchdogSettings = field(default_factory=WatchdogSettings)
    speed: ForwardSpeed = field(default_factory=ForwardSpeed)

    def __post_init__(self) -> None:
        if not self.save_folder:
            object.__setattr__(self, "save_folder", f"evaluations/{self.run_name}-{Path(self.weights).name}")


def load_evaluation(
    path: str | Path, overrides: Iterable[str] = (), also: Callable[[Evaluation], list[Problem]] | None = None
) -> Loaded[Evaluation]:
    """Compose, check and complete the configuration of an evaluation.

    Raises:
        ConfigError: with every problem that can be seen at once.
    """
    return load(_SCHEMA, path, overrides, our_code_paths(), also)


def named_with_text(names: Iterable[str]) -> list[str]:
    """Those of the evaluations that need a text tower, and no training images."""
    registered = registered_names("evaluation")
    return [name for name in names if name in registered and hasattr(lookup("evaluation", name).builder, "with_text")]


def needs_training_images(names: Iterable[str]) -> bool:
    """Whether any of the evaluations compares images with images."""
    return len(named_with_text(names := list(names))) < len(names)


def _contradictions(evaluation: Evaluation) -> list[Problem]:
    needed = {"train": evaluation.data.train} if needs_training_images(evaluation.evaluations) else {}
    problems = [
        Problem(f"data.{name}", "needs remote or local")
        for name, data in {**needed, "test": evaluation.data.test}.items()
        if not data.remote and not data.local
    ]
    if "://" in evaluation.save_folder:
        problems.append(Problem("save_folder", f"{evaluation.save_folder}: expected a local folder"))
    return problems


_SCHEMA = Schema(
    Evaluation,
    plugins={"evaluations": "evaluation"},
    harmless={"weights": "", "data": {"test": {}}, "evaluations": {"": None}},
    contradictions=_contradictions,
)


def _check_named(named: Mapping[str, Arguments | None]) -> Mapping[str, Arguments | None]:
    """For evaluations inside of another plugin's arguments, which `load` does not see."""
    for name, arguments in named.items():
        try:
            mistakes: Sequence[Any] = check(signature_of(lookup("evaluation", name).builder), arguments or {}).mistakes
        except ConfigError as error:
            raise ValueError(error.problems[0].message) from error
        if mistakes:
            raise ValueError(f"{'.'.join([name, *mistakes[0].path])}: {mistakes[0].message}")
    return named


NamedEvaluations = Annotated[dict[str, Arguments | None], Field(min_length=1), AfterValidator(_check_named)]
