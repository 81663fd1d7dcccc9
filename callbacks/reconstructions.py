"""Pictures of what an MAE makes of images it has never seen."""

from __future__ import annotations

from composer.core import Callback, State
from composer.loggers import Logger

from maws_composer.registry import register_callback
from maws_composer.reporting.reconstructions import draw_reconstructions


@register_callback("reconstructions")
class Reconstructions(Callback):
    """Draws original, masked image and reconstruction side by side, from the first evaluation batch.

    Needs `data.eval` and a stage that can reconstruct. The picture goes to every logger, and to the run's folder.

    Args:
        images: how many rows.
    """

    def __init__(self, images: int = 8) -> None:
        self.images = images

    def eval_batch_end(self, state: State, logger: Logger) -> None:
        if int(state.eval_timestamp.batch) != 1:
            return
        columns = state.model.reconstruct(state.batch, state.outputs)
        rows = [column[: self.images].permute(0, 2, 3, 1).cpu().numpy() for column in columns]
        logger.log_images(draw_reconstructions(*rows), name="reconstructions", channels_last=True)
