"""TensorBoard of a run that is interrupted and goes on."""

from __future__ import annotations

from typing import Any

from composer.core import State
from composer.loggers import Logger, TensorboardLogger
from composer.utils import dist


class ContinuedTensorboard(TensorboardLogger):
    """Composer's, which loses nothing that a checkpoint knows, and has TensorBoard forget what came after it.

    Every figure stands at the number of the step that it belongs to, as in metrics.jsonl. Composer has a step's loss
    one before its evaluation, so that no number would lie between what is done again and what is not.
    """

    _step = 0

    def after_load(self, state: State, logger: Logger) -> None:
        self._step = int(state.timestamp.batch)
        if self.writer is not None and dist.get_global_rank() == 0:  # Composer has a writer on every rank
            self.writer.close()
            self.writer.purge_step = self._step + 1

    def batch_start(self, state: State, logger: Logger) -> None:
        self._step = int(state.timestamp.batch) + 1

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        super().log_metrics(metrics, max(step or 0, self._step))

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        batch = state.timestamp.batch
        if any(getattr(callback, "last_checkpoint_batch", None) == batch for callback in state.callbacks):
            self._flush(logger)
