"""Evaluations of the encoder while it is trained."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from composer.core import Callback, Event, State, get_precision_context
from composer.loggers import Logger
from composer.utils import create_interval_scheduler

from maws_composer.config.build import build
from maws_composer.config.durations import StepInterval
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.config.run import Run
from maws_composer.data.columns import LABELS
from maws_composer.data.settings import EvalData
from maws_composer.evaluation.extraction import Feature, encode, extract
from maws_composer.evaluation.features import Evaluate, EvaluateWithText, Extracted
from maws_composer.evaluation.in_training import left_as_it_was, log_results, towers_in
from maws_composer.evaluation.preflight import Images, image_problems, word_problems
from maws_composer.evaluation.settings import NamedEvaluations, needs_training_images
from maws_composer.evaluation.suite import build_checked_loader, columns_for, evaluate_all, read_words
from maws_composer.parallel.agree import on_rank_zero
from maws_composer.parallel.precision import torch_device
from maws_composer.parallel.shard import way_in
from maws_composer.registry import lookup, register_callback
from maws_composer.resilience.preemption import PreemptedError, Preemption
from maws_composer.resilience.progress import limited_wait
from maws_composer.stages.build import encoder_of, no_encoder

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

    figures = "eval/"

    def __init__(
        self,
        every: StepInterval,
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
        self.with_text = {n: each for n, each in self.evaluations.items() if isinstance(each, EvaluateWithText)}
        if self.with_text and feature != "class_token":
            raise ConfigError([Problem(f"{KEY}.feature", "evaluations with text look at class tokens")])
        self.feature: Feature = feature
        self.columns = {"train": (LABELS,), "test": columns_for(self.evaluations)}
        self.run, self.is_owed = run, False

    def preflight(self) -> list[Problem]:
        """What foreseeably fails."""
        problems = no_encoder(self.run, KEY)
        if not problems and self.with_text and "text" not in self.run.model:
            problems = [self._no_text_tower()]  # of plug-ins' stages this is asked when training begins
        images = {f"{KEY}.{name}": Images(data, self.columns[name]) for name, data in self.sources.items()}
        problems += image_problems(images, self.run.model["image_size"])
        if problems:
            return problems
        if self.with_text:
            problems = word_problems([*self.with_text.values()], self.sources["test"], f"{KEY}.test")
        return [replace(problem, path=f"{KEY}.{problem.path.removeprefix(f'{KEY}.')}") for problem in problems]

    def _no_text_tower(self) -> Problem:
        return Problem(f"{KEY}.evaluations", f"this stage has no text tower; remove {next(iter(self.with_text))}")

    def init(self, state: State, logger: Logger) -> None:
        encoder = encoder_of(state.model, KEY)
        self.encode_images = way_in(state.model, encoder, "encode_images", partial(encode, encoder, self.feature))
        self.preemption = next(each for each in state.callbacks if isinstance(each, Preemption))
        self.words = on_rank_zero(lambda: read_words(self.sources["test"], f"{KEY}.test"))
        self.towers = towers_in(state.model, self.run.model.get("text")) if self.with_text else None
        if self.with_text and self.towers is None:
            raise ConfigError([self._no_text_tower()])
        for evaluation in self.with_text.values():
            evaluation.check(self.words)
        size = self.run.model["image_size"]
        self.loaders = {
            name: build_checked_loader(data, f"{KEY}.{name}", size, self.run, self.columns[name])
            for name, data in self.sources.items()
        }

    def batch_end(self, state: State, logger: Logger) -> None:
        if self.is_due(state, Event.BATCH_END):
            self.evaluate(state, logger)

    def epoch_end(self, state: State, logger: Logger) -> None:
        if self.is_due(state, Event.EPOCH_END):
            self.evaluate(state, logger)

    def state_dict(self) -> dict[str, Any]:
        return {"is_owed": self.is_owed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.is_owed = state["is_owed"]

    def evaluate(self, state: State, logger: Logger) -> None:
        """Log figures and pictures of the model as it is. A collective.

        When notice has been given, or is given before features are extracted, the next start makes up for it.
        """
        self.is_owed = True
        try:
            self.preemption.leave_if_noticed()
            with left_as_it_was(state.model), get_precision_context(state.precision):
                extracted = {name: self._extract(name) for name in self.loaders}
                towers = self.towers() if self.towers is not None else None
                of = (extracted.get("train"), extracted["test"], self.words, towers)
                with limited_wait("evaluating while training"):
                    results = evaluate_all(self.evaluations, *of)
        except PreemptedError:  # this step has to be written down yet; the ranks leave before the next
            return
        self.is_owed = False
        log_results(results, extracted["test"], logger)

    def _extract(self, name: str) -> Extracted | None:
        title, noticed = f"features of {name} images", self.preemption.leave_if_noticed
        return extract(self.encode_images, self.loaders[name], torch_device(), title, after_batch=noticed)
