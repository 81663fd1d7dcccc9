"""A picture of what an encoder knows of where its patches are."""

from __future__ import annotations

from composer.core import Callback, Event, State
from composer.loggers import Logger
from composer.utils import create_interval_scheduler, dist

from maws_composer.config.durations import StepInterval
from maws_composer.config.problems import Problem
from maws_composer.config.run import Run
from maws_composer.parallel.shard import whole
from maws_composer.registry import register_callback
from maws_composer.reporting.encoder_pictures import draw_tiles, position_similarities
from maws_composer.stages.build import encoder_of, no_encoder

KEY = "callbacks.position_embedding"
TILE = 48


@register_callback("position_embedding")
class PositionEmbedding(Callback):
    """Draws, for each position, the cosine similarity of its embedding with those of all others.

    Worth it where positions are trained (WSP with `fixed_positions: false`): nearby ones stay, or become, alike.

    Args:
        every: how often.
    """

    def __init__(self, every: StepInterval = "5000ba", *, run: Run) -> None:
        self.is_due = create_interval_scheduler(every, include_end_of_training=False, checkpoint_events=False)
        self.run = run

    def preflight(self) -> list[Problem]:
        """Whether there is something to draw."""
        return no_encoder(self.run, KEY)

    def init(self, state: State, logger: Logger) -> None:
        self.encoder = encoder_of(state.model, KEY)

    def batch_end(self, state: State, logger: Logger) -> None:
        if not self.is_due(state, Event.BATCH_END):
            return
        positions = whole(self.encoder.pos_embed)[0, 1:]  # without the class token's
        if dist.get_global_rank() == 0:
            picture = draw_tiles(position_similarities(positions.cpu()), self.encoder.grid[1], TILE)
            logger.log_images(picture, "position_embedding", channels_last=True)
