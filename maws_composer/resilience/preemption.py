"""A notice to one rank becomes a checkpoint of all, and an orderly end: the same command goes on from there."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from composer import Trainer
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist as composer_dist

from maws_composer.checkpoints.saving import ShardedCheckpoints
from maws_composer.checkpoints.writing import SaveError
from maws_composer.outages import StorageError
from maws_composer.resilience.bad_samples import TooManyBadSamplesError
from maws_composer.resilience.cloud_notice import watch
from maws_composer.resilience.loss_spikes import DivergedError, LossSpikes, RewindError
from maws_composer.resilience.notice import notice
from maws_composer.resilience.rewinding import rewind
from maws_composer.resilience.settings import PreemptionSettings

log = logging.getLogger(__name__)


class PreemptedError(Exception):
    """The ranks agreed to leave. The run is not finished, and nothing is wrong with it."""


@runtime_checkable
class Evaluates(Protocol):
    """A callback with evaluations of its own, which heed `Preemption.leave_if_noticed`.

    Attributes:
        figures: what the names of their metrics begin with.
        is_owed: one was cut off. Belongs into the callback's `state_dict`.
    """

    figures: str
    is_owed: bool

    def evaluate(self, state: State, logger: Logger) -> None:
        """Make the one that is owed. A collective."""


class Preemption(Callback):
    """Has all ranks stop at the same place once one of them was given notice.

    Looked at after every step, after every batch of an evaluation, and between the parts of the start. An evaluation
    that is cut off, or does not begin, is made up for by the next start, `Evaluates` included.

    Args:
        settings: how much time there is, and who else is asked.
        group: of the main threads' CPUs: a number a step is not worth waiting for the GPU.
    """

    def __init__(self, settings: PreemptionSettings, group: dist.ProcessGroup) -> None:
        self.grace = settings.grace
        self.owes_evaluation = False
        self.leave_by = float("inf")
        self._group = group
        if composer_dist.get_local_rank() == 0:
            watch(settings)

    def agree(self) -> bool:
        """Whether any rank has been given notice: the same answer on all. A collective."""
        own = notice()
        waited = torch.tensor([time.monotonic() - own.at if own else -1.0], dtype=torch.float64)
        dist.all_reduce(waited, dist.ReduceOp.MAX, group=self._group)
        longest = waited.item()
        if longest >= 0 and self.leave_by == float("inf"):
            self.leave_by = time.monotonic() + self.grace - longest
        return longest >= 0

    def leave_if_noticed(self) -> None:
        """A collective, before there is anything to save. Raises PreemptedError."""
        if self.agree():
            raise PreemptedError

    def fit_start(self, state: State, logger: Logger) -> None:
        self.leave_if_noticed()

    def batch_end(self, state: State, logger: Logger) -> None:
        self.agree()  # metrics.jsonl, which comes after callbacks, has to have this step too

    def eval_start(self, state: State, logger: Logger) -> None:
        self.owes_evaluation = True
        if self.is_leaving:
            raise PreemptedError

    def eval_batch_end(self, state: State, logger: Logger) -> None:
        self.leave_if_noticed()

    def eval_end(self, state: State, logger: Logger) -> None:
        self.owes_evaluation = False

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        if self.is_leaving:
            raise PreemptedError

    @property
    def is_leaving(self) -> bool:
        """Whether the ranks have agreed."""
        return self.leave_by < float("inf")

    def state_dict(self) -> dict[str, Any]:
        return {"owes_evaluation": self.owes_evaluation}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.owes_evaluation = state["owes_evaluation"]


def fit(trainer: Trainer, preemption: Preemption, checkpoints: ShardedCheckpoints, spikes: LossSpikes) -> None:
    """Train to the end, going back where `spikes` asks for it, or save what there is when the ranks agree to leave.

    Raises:
        PreemptedError: after saving.
        DivergedError, TooManyBadSamplesError: on all ranks alike, and after the checkpoint that was under way.
    """
    try:
        _make_up(trainer, preemption)
        while trainer.state.timestamp < trainer.state.max_duration:
            try:
                trainer.fit()
            except RewindError as error:
                rewind(trainer, error, spikes, checkpoints)
                preemption.owes_evaluation = False  # if it did, that was made when the run was here first
                for callback in _owing(trainer.state):
                    callback.is_owed = False
    except (DivergedError, TooManyBadSamplesError):
        try:
            checkpoints.settle()
        except (SaveError, StorageError) as error:  # the first one is what has to be seen last
            log.warning("%s", error)
        raise
    except PreemptedError:
        state = trainer.state
        state.set_dataloader(state.train_dataloader, "train")  # an evaluation may have been cut off
        owed = [callback.figures for callback in _owing(state)]
        owed += ["metrics/"] if preemption.owes_evaluation else []
        checkpoints.save_before_leaving(state, preemption.leave_by, owed)
        trainer.close()
        raise


def _make_up(trainer: Trainer, preemption: Preemption) -> None:
    """Evaluations that an earlier start was cut off in, perhaps after the last step; their figures are one line."""
    for callback in _owing(trainer.state):
        callback.evaluate(trainer.state, trainer.logger)
        preemption.leave_if_noticed()
    if preemption.owes_evaluation and trainer.state.evaluators:  # there was data for it then
        trainer.eval()


def _owing(state: State) -> Iterator[Evaluates]:
    return (callback for callback in state.callbacks if isinstance(callback, Evaluates) and callback.is_owed)
