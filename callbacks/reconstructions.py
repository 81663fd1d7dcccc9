"""Pictures of what an MAE makes of images it has never seen."""

from __future__ import annotations

from typing import Annotated

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from pydantic import Field
from torch import Tensor

from maws_composer.config.problems import Problem
from maws_composer.config.run import Run
from maws_composer.evaluation.pictured import all_over, everybodys, rows_of
from maws_composer.registry import lookup, register_callback
from maws_composer.reporting.reconstructions import draw_reconstructions

KEY = "callbacks.reconstructions"


@register_callback("reconstructions")
class Reconstructions(Callback):
    """Draws original, masked image and reconstruction side by side, for images from all over `data.eval`.

    The same ones in every evaluation, on any number of processes. Needs `data.eval` and a stage that can reconstruct.
    The picture goes to every logger, and to the run's folder.

    Args:
        images: how many.
    """

    def __init__(self, images: Annotated[int, Field(gt=0)] = 8, *, run: Run) -> None:
        self.images, self.run = images, run

    def preflight(self) -> list[Problem]:
        """Whether there are images, and something that reconstructs them."""
        if self.run.data.eval is None:
            return [Problem(KEY, "needs held-out images; set data.eval")]
        if not hasattr(lookup("stage", self.run.stage).builder, "reconstruct"):
            return [Problem(KEY, "this stage reconstructs nothing; remove it")]
        return []

    def eval_start(self, state: State, logger: Logger) -> None:
        self.positions = all_over(state.dataloader.dataset.order.samples, self.images)
        self.drawn: dict[int, Tensor] = {}  # of this rank

    def eval_batch_end(self, state: State, logger: Logger) -> None:
        rows = rows_of(state.batch, self.positions)
        if rows:
            columns = torch.stack(state.model.reconstruct(state.batch, state.outputs), 1).permute(0, 1, 3, 4, 2).cpu()
            self.drawn |= {position: columns[row].clone() for position, row in rows.items()}

    def eval_end(self, state: State, logger: Logger) -> None:
        drawn = everybodys(self.drawn)
        if drawn is not None:
            picture = draw_reconstructions(*(column.numpy() for column in drawn.unbind(1)))
            logger.log_images(picture, "reconstructions", channels_last=True)
