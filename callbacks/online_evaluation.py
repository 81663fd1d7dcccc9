"""Evaluations of the encoder while it is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from composer.core import Callback, Event, State, get_precision_context
from composer.loggers import Logger
from composer.utils import create_interval_scheduler
from torch import nn
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from maws_composer.config.build import build
from maws_composer.config.durations import Interval
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.config.run import Run
from maws_composer.data.captions import CaptionTokenizer
from maws_composer.data.columns import IMAGE_EMBEDDING, LABELS
from maws_composer.data.settings import EvalData
from maws_composer.evaluation.extraction import Encode, Feature, encode, extract
from maws_composer.evaluation.features import Evaluate, EvaluateWithText, Extracted
from maws_composer.evaluation.preflight import Images, image_problems, word_problems
from maws_composer.evaluation.settings import NamedEvaluations, needs_training_images
from maws_composer.evaluation.suite import build_checked_loader, columns_for, evaluate_all, read_words
from maws_composer.evaluation.towers import FrozenTowers
from maws_composer.models.clip import ImageTextModel
from maws_composer.models.vit import VisionTransformer
from maws_composer.parallel.agree import on_rank_zero
from maws_composer.parallel.precision import torch_device
from maws_composer.planning.plan import columns_of
from maws_composer.registry import lookup, register_callback
from maws_composer.reporting.guesses import draw_guesses
from maws_composer.resilience.preemption import PreemptedError, Preemption
from maws_composer.resilience.progress import limited_wait

KEY = "callbacks.online_evaluation"


@register_callback("online_evaluation")
class OnlineEvaluation(Callback):
    """Extracts features of labelled images with the encoder as it is, evaluates them on rank 0, and logs
    `eval/<evaluation>/<figure>`. Changes nothing in training.

    The other ranks wait for rank 0: choose few images and quick evaluations, such as `knn`. Evaluations with text, such
    as `zero_shot`, need a stage with a text tower and images, and `feature: class_token`; their best texts for some
    images are logged as a picture.

    Args:
        every: how often, for example "10_000_000sp".
        test: images that figures are about, with labels or captions, as the evaluations need them.
        train: labelled images that probes and neighbours are taken from; not for evaluations with text.
        evaluations: name -> arguments, as for evaluate.py.
        feature: of an image: its class token, or the mean of its patch tokens.
    """

    def __init__(
        self,
        every: Interval,
        test: EvalData,
        evaluations: NamedEvaluations,
        train: EvalData | None = None,
        feature: Feature = "class_token",
        *,
        run: Run,
    ) -> None:
        self.is_due = create_interval_scheduler(every, include_end_of_training=False, checkpoint_events=False)
        needs_train = needs_training_images(evaluations)
        self.sources = {"train": train or EvalData(), "test": test} if needs_train else {"test": test}
        for name, data in self.sources.items():
            if not data.remote and not data.local:
                raise ConfigError([Problem(f"{KEY}.{name}", "needs remote or local")])
        self.evaluations: dict[str, Evaluate | EvaluateWithText] = {
            name: build(lookup("evaluation", name), given, run) for name, given in evaluations.items()
        }
        self.with_text = [name for name, each in self.evaluations.items() if isinstance(each, EvaluateWithText)]
        if self.with_text and feature != "class_token":
            raise ConfigError([Problem(f"{KEY}.feature", "evaluations with text look at class tokens")])
        self.feature: Feature = feature
        self.columns = {"train": (LABELS,), "test": columns_for(self.evaluations)}
        self.run = run
        self.is_owed = False

    def preflight(self) -> list[Problem]:
        """What foreseeably fails, before training begins."""
        problems = self._stage_problems()
        images = {f"{KEY}.{name}": Images(data, self.columns[name]) for name, data in self.sources.items()}
        problems += image_problems(images, self.run.model["image_size"])
        if problems:
            return problems
        with_text = [each for each in self.evaluations.values() if isinstance(each, EvaluateWithText)]
        problems = word_problems(with_text, self.sources["test"], f"{KEY}.test") if with_text else []
        return [replace(problem, path=f"{KEY}.{problem.path.removeprefix(f'{KEY}.')}") for problem in problems]

    def _stage_problems(self) -> list[Problem]:
        """Whether the stage has what is evaluated; those of others are asked when training begins."""
        if IMAGE_EMBEDDING in columns_of(self.run):
            return [Problem(KEY, "this stage reads image embeddings and runs no encoder; remove it")]
        if self.with_text and "text" not in self.run.model:
            return [self._no_text_tower()]
        return []

    def _no_text_tower(self) -> Problem:
        return Problem(f"{KEY}.evaluations", f"this stage has no text tower; remove {self.with_text[0]}")

    def init(self, state: State, logger: Logger) -> None:
        encoders = [part for part in state.model.modules() if isinstance(part, VisionTransformer)]
        if len(encoders) != 1:
            raise ConfigError([Problem(KEY, f"this stage has {len(encoders)} encoders, expected one; remove it")])
        child = next(part for part in state.model.children() if encoders[0] in set(part.modules()))
        # FSDP gathers a child's parameters when its forward begins, and has to be told of another way in.
        child.encode_images = partial(encode, encoders[0], self.feature)
        register_fsdp_forward_method(child, "encode_images")
        self.encode_images: Encode = child.encode_images
        self.preemption = next(each for each in state.callbacks if isinstance(each, Preemption))
        self.words = on_rank_zero(lambda: read_words(self.sources["test"], f"{KEY}.test"))
        self.text_model = self._text_model(state) if self.with_text else None
        size = self.run.model["image_size"]
        self.loaders = {
            name: build_checked_loader(data, f"{KEY}.{name}", size, self.run, self.columns[name])
            for name, data in self.sources.items()
        }

    def fit_start(self, state: State, logger: Logger) -> None:
        if self.is_owed:
            self._evaluate(state, logger)

    def batch_end(self, state: State, logger: Logger) -> None:
        if self.is_due(state, Event.BATCH_END):
            self._evaluate(state, logger)

    def epoch_end(self, state: State, logger: Logger) -> None:
        if self.is_due(state, Event.EPOCH_END):
            self._evaluate(state, logger)

    def state_dict(self) -> dict[str, Any]:
        return {"is_owed": self.is_owed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.is_owed = state["is_owed"]

    def _evaluate(self, state: State, logger: Logger) -> None:
        """Log figures and pictures of the model as it is. A collective.

        When notice has been given, or is given before features are extracted, the next start makes up for it.
        """
        self.is_owed = True
        try:
            self.preemption.leave_if_noticed()
            with left_as_it_was(state.model), get_precision_context(state.precision):
                extracted = {name: self._extract(name) for name in self.loaders}
                towers = self._towers() if self.with_text else None
                with limited_wait("evaluating while training"):
                    results = evaluate_all(
                        self.evaluations, extracted.get("train"), extracted["test"], self.words, towers
                    )  # fmt: skip
        except PreemptedError:  # this step has to be written down yet; the ranks leave before the next
            return
        self.is_owed = False
        for name, result in results.items():
            logger.log_metrics({f"eval/{name}/{figure}": value for figure, value in result.figures.items()})
            if result.guesses and extracted["test"] is not None:
                picture = draw_guesses(extracted["test"].pictures.permute(0, 2, 3, 1).numpy(), result.guesses)
                logger.log_images(picture, name, channels_last=True)

    def _extract(self, name: str) -> Extracted | None:
        title, noticed = f"features of {name} images", self.preemption.leave_if_noticed
        return extract(self.encode_images, self.loaders[name], torch_device(), title, after_batch=noticed)

    def _text_model(self, state: State) -> ImageTextModel:
        models = [part for part in state.model.modules() if isinstance(part, ImageTextModel)]
        if not models:
            raise ConfigError([self._no_text_tower()])
        for evaluation in self.evaluations.values():
            if isinstance(evaluation, EvaluateWithText):
                evaluation.check(self.words)
        text = self.run.model["text"]
        self.tokenizer = CaptionTokenizer(text.name, text.context_length)
        return models[0]

    def _towers(self) -> FrozenTowers:
        assert self.text_model is not None
        projection = self.text_model.image_projection.weight.detach()
        whole = projection.full_tensor() if isinstance(projection, DTensor) else projection
        return FrozenTowers(whole, self.text_model.encode_text, self.tokenizer, torch_device())


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and random numbers that training does not miss."""
    training = model.training
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        model.eval()
        try:
            yield
        finally:
            model.train(training)
