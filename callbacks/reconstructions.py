"""Pictures of what an MAE makes of images it has never seen."""

from __future__ import annotations

from typing import Annotated

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from pydantic import Field

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.config.run import Run
from maws_composer.registry import register_callback
from maws_composer.reporting.reconstructions import draw_reconstructions


@register_callback("reconstructions")
class Reconstructions(Callback):
    """Draws original, masked image and reconstruction side by side, for images of the first evaluation batch.

    Needs `data.eval` and a stage that can reconstruct. The picture goes to every logger, and to the run's folder.

    Args:
        images: how many.
    """

    def __init__(self, images: Annotated[int, Field(gt=0)] = 8, *, run: Run) -> None:
        if run.data.eval is None:
            raise ConfigError([Problem("callbacks.reconstructions", "needs held-out images; set data.eval")])
        self.images = images

    def init(self, state: State, logger: Logger) -> None:
        if not hasattr(state.model, "reconstruct"):
            raise ConfigError([Problem("callbacks.reconstructions", "this stage reconstructs nothing; remove it")])

    def eval_batch_end(self, state: State, logger: Logger) -> None:
        if int(state.eval_timestamp.batch) != 1:
            return
        columns = state.model.reconstruct(state.batch, state.outputs)
        # Neighbors in a dataset are often of one kind: take images from all over the batch.
        rows = max(int(state.batch["valid"].sum()), 1)  # those that only fill the batch, on some ranks all, come last
        chosen = torch.linspace(0, rows - 1, min(self.images, rows)).long()
        pictures = [column[chosen.to(column.device)].permute(0, 2, 3, 1).cpu().numpy() for column in columns]
        logger.log_images(draw_reconstructions(*pictures), "reconstructions", channels_last=True)
