"""A picture of the filters that an encoder sees through."""

from __future__ import annotations

from typing import Annotated

from composer.core import Callback, Event, State
from composer.loggers import Logger
from composer.utils import create_interval_scheduler, dist
from pydantic import Field

from maws_composer.config.durations import StepInterval
from maws_composer.config.problems import Problem
from maws_composer.config.run import Run
from maws_composer.parallel.shard import whole
from maws_composer.registry import register_callback
from maws_composer.reporting.encoder_pictures import draw_tiles, principal_filters
from maws_composer.stages.build import encoder_of, no_encoder

KEY = "callbacks.patch_embedding"
COLUMNS, TILE = 7, 56


@register_callback("patch_embedding")
class PatchEmbedding(Callback):
    """Draws the first principal components of the patch embedding's filters.

    At the start they are noise; a healthy encoder has smooth waves and color contrasts, an over-trained or broken one
    goes back to noise.

    Args:
        every: how often.
        filters: how many are drawn.
    """

    def __init__(self, every: StepInterval = "5000ba", filters: Annotated[int, Field(gt=0)] = 28, *, run: Run) -> None:
        self.is_due = create_interval_scheduler(every, include_end_of_training=False, checkpoint_events=False)
        self.filters, self.run = filters, run

    def preflight(self) -> list[Problem]:
        """Whether there is something to draw."""
        return no_encoder(self.run, KEY)

    def init(self, state: State, logger: Logger) -> None:
        self.encoder = encoder_of(state.model, KEY)

    def batch_end(self, state: State, logger: Logger) -> None:
        if not self.is_due(state, Event.BATCH_END):
            return
        weight = whole(self.encoder.patch_embed.proj.weight)
        if dist.get_global_rank() == 0:
            picture = draw_tiles(principal_filters(weight.cpu(), self.filters), COLUMNS, TILE)
            logger.log_images(picture, "patch_embedding", channels_last=True)
