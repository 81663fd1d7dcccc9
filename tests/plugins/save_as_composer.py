"""Composer's own checkpoints, beside ours."""

from __future__ import annotations

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils.checkpoint import save_checkpoint

from maws_composer.registry import register_callback


@register_callback("save_as_composer")
class SaveAsComposer(Callback):
    """Saves with Composer's own function.

    Args:
        folder: where.
        batch: steps done before.
    """

    def __init__(self, folder: str, batch: int) -> None:
        self.folder, self.batch = folder, batch

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        if int(state.timestamp.batch) == self.batch:
            save_checkpoint(state, self.folder + "/rank{rank}.pt")
