"""What evaluations need of a stage that is being trained, and sharded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from composer.loggers import Logger
from torch import nn

from maws_composer.data.own_text import tokenizer_of
from maws_composer.evaluation.features import Extracted, Result
from maws_composer.evaluation.towers import FrozenTowers
from maws_composer.models.clip import ImageTextModel
from maws_composer.models.text_tower import TextSettings
from maws_composer.parallel.precision import torch_device
from maws_composer.parallel.shard import whole
from maws_composer.reporting.guesses import draw_guesses


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


def towers_in(stage: nn.Module, text: TextSettings | None) -> Callable[[], FrozenTowers] | None:
    """What makes the towers as they are when it is called, which is a collective. None: the stage has no text tower."""
    model = next((part for part in stage.modules() if isinstance(part, ImageTextModel)), None)
    if model is None or text is None:
        return None
    tokenizer, projection = tokenizer_of(text), model.image_projection
    return lambda: FrozenTowers(whole(projection.weight), model.encode_text, tokenizer, torch_device())


def log_results(results: Mapping[str, Result], test: Extracted | None, logger: Logger) -> None:
    """Figures, as `eval/<evaluation>/<figure>`, and guesses for some images as a picture.

    Args:
        results: by evaluation.
        test: on rank 0, what they are about.
        logger: Composer's.
    """
    for name, result in results.items():
        logger.log_metrics({f"eval/{name}/{figure}": value for figure, value in result.figures.items()})
        if result.guesses and test is not None:
            picture = draw_guesses(test.pictures.permute(0, 2, 3, 1).numpy(), result.guesses)
            logger.log_images(picture, name, channels_last=True)
