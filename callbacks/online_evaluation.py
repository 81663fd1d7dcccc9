"""Evaluations of the encoder while it is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from composer.core import Callback, Event, State, get_precision_context
from composer.loggers import Logger
from composer.utils import create_interval_scheduler
from torch import nn
from torch.distributed.fsdp import register_fsdp_forward_method

from maws_composer.config.durations import Interval
from maws_composer.config.plugins import build
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.config.run import Run
from maws_composer.data.columns import LABELS
from maws_composer.data.loader import build_loader_of_each_once
from maws_composer.data.settings import EvalData
from maws_composer.evaluation.extraction import Encode, Feature, encode, extract
from maws_composer.evaluation.features import Features
from maws_composer.evaluation.settings import NamedEvaluations
from maws_composer.evaluation.suite import evaluate_all
from maws_composer.models.vit import VisionTransformer
from maws_composer.parallel.agree import on_rank_zero
from maws_composer.parallel.precision import torch_device
from maws_composer.registry import lookup, register_callback

KEY = "callbacks.online_evaluation"


@register_callback("online_evaluation")
class OnlineEvaluation(Callback):
    """Extracts features of labelled images with the encoder as it is, evaluates them on rank 0, and logs
    `eval/<evaluation>/<figure>`. Changes nothing in training.

    The other ranks wait for rank 0: choose few images and quick evaluations, such as `knn`.

    Args:
        every: how often, for example "10_000_000sp".
        train: labelled images that probes and neighbours are taken from.
        test: labelled images that figures are about.
        evaluations: name -> arguments, as for evaluate.py.
        feature: of an image: its class token, or the mean of its patch tokens.
    """

    def __init__(
        self,
        every: Interval,
        train: EvalData,
        test: EvalData,
        evaluations: NamedEvaluations,
        feature: Feature = "class_token",
        *,
        run: Run,
    ) -> None:
        self.is_due = create_interval_scheduler(every, include_end_of_training=False, checkpoint_events=False)
        self.sources = {"train": train, "test": test}
        for name, data in self.sources.items():
            if not data.remote and not data.local:
                raise ConfigError([Problem(f"{KEY}.{name}", "needs remote or local")])
        self.evaluations = {name: build(lookup("evaluation", name), given, run) for name, given in evaluations.items()}
        self.feature: Feature = feature
        self.run = run

    def init(self, state: State, logger: Logger) -> None:
        encoders = [part for part in state.model.modules() if isinstance(part, VisionTransformer)]
        if len(encoders) != 1:
            raise ConfigError([Problem(KEY, f"this stage has {len(encoders)} encoders, expected one; remove it")])
        child = next(part for part in state.model.children() if encoders[0] in set(part.modules()))
        # FSDP gathers a child's parameters when its forward begins, and has to be told of another way in.
        child.encode_images = partial(encode, encoders[0], self.feature)
        register_fsdp_forward_method(child, "encode_images")
        self.encode_images: Encode = child.encode_images
        size = self.run.model["image_size"]
        self.loaders = {
            name: build_loader_of_each_once(data, f"{KEY}.{name}", size, self.run, columns=(LABELS,))
            for name, data in self.sources.items()
        }

    def batch_end(self, state: State, logger: Logger) -> None:
        if self.is_due(state, Event.BATCH_END):
            logger.log_metrics(self.figures(state))

    def epoch_end(self, state: State, logger: Logger) -> None:
        if self.is_due(state, Event.EPOCH_END):
            logger.log_metrics(self.figures(state))

    def figures(self, state: State) -> dict[str, float]:
        """Of the encoder as it is. A collective."""
        with left_as_it_was(state.model), get_precision_context(state.precision):
            features = {name: self._extract(name) for name in self.loaders}
        results = on_rank_zero(lambda: evaluate_all(self.evaluations, **features))  # type: ignore[arg-type]
        return {
            f"eval/{name}/{figure}": value
            for name, result in results.items()
            for figure, value in result.figures.items()
        }

    def _extract(self, name: str) -> Features | None:
        return extract(self.encode_images, self.loaders[name], torch_device(), f"features of {name} images")


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
