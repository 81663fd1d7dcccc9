"""A step whose loss or gradient is not finite, or whose loss is a spike, changes nothing; then what is configured.

The judgement is made on the device between the backward pass and the optimizer, whose kernel is told by a tensor: the
CPU does not wait. It hears of the judgement at the end of the step, when it has the loss anyway.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

import torch
import torch.distributed as dist
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import ensure_tuple
from torch import Tensor

from maws_composer.checkpoints.run_folder import RunFolder
from maws_composer.config.problems import ForeseenError
from maws_composer.config.run import Run
from maws_composer.parallel.agree import on_rank_zero
from maws_composer.resilience.evidence import Evidence, gather_evidence, keep_evidence
from maws_composer.resilience.skips import Skips, Spike, read_skips, write_skips

log = logging.getLogger(__name__)

_CALMER = (
    "Go on with a higher limit; or with a lower optimizer.base_lr, a gradient_clip or a higher precision (and "
    "allow_changed_config=true)"
)


class DivergedError(ForeseenError):
    """The loss, or its gradient, is not finite, or much higher than before, and nothing is left to be tried."""


class RewindError(Exception):
    """The ranks agree to go back to a checkpoint.

    Attributes:
        batch: of the spike.
    """

    def __init__(self, batch: int) -> None:
        super().__init__(f"a spike at batch {batch}")
        self.batch = batch


class LossSpikes(Callback):
    """Judges each step before it is made, clips its gradient, and answers a spike by stop, skip or rewind.

    Clipping is here because it needs the same norm, which Composer's algorithm keeps to itself; the gradient of a spike
    is not clipped, so that it can be told which parameters' are not finite. The stage has to be sharded.

    Args:
        run: for `loss_spikes`, `gradient_clip` and the size of a batch.
        folder: where the run lives. A collective.
    """

    def __init__(self, run: Run, folder: RunFolder) -> None:
        self.settings = run.loss_spikes
        self.folder = folder
        self.skips = on_rank_zero(lambda: read_skips(folder))
        self._clip = run.gradient_clip
        self._batch_size = run.global_train_batch_size
        self._loaded = Skips()
        self._losses = self._window([])

    def init(self, state: State, logger: Logger) -> None:
        self._parameters = {name: each for name, each in state.model.named_parameters() if each.requires_grad}
        mesh = next(iter(self._parameters.values())).device_mesh
        self._replicas = mesh.size() // mesh.size(mesh.ndim - 1)
        self._loss = state.device.tensor_to_device(torch.zeros(()))
        for optimizer in state.optimizers:
            optimizer.found_inf = torch.zeros_like(self._loss)

    def after_load(self, state: State, logger: Logger) -> None:
        done = int(state.timestamp.batch)
        for spike in self.skips.spikes:
            if spike.first <= done and spike not in self._loaded.spikes:
                raise RuntimeError(
                    f"the checkpoint of batch {done} was trained on batch {spike.first}, which the run has left out "
                    f"since it went back because of batch {spike.batch}; delete that checkpoint"
                )

    def before_train_batch(self, state: State, logger: Logger) -> None:
        self._loss.zero_()

    def before_backward(self, state: State, logger: Logger) -> None:
        # as Composer adds up what it logs: every rank's share of the global batch has equally many samples
        self._loss += _total(state.loss).detach() * len(state.batch["valid"])

    @torch.no_grad()
    def after_train_batch(self, state: State, logger: Logger) -> None:
        # This rank's shards: torch's functions for DTensors take five times as long, and a collective more.
        gradients = [each.grad.to_local() for each in self._parameters.values() if each.grad is not None]
        squares = torch.stack(torch._foreach_norm(gradients)).square().sum() / self._replicas
        sums = torch.stack([self._loss, squares])
        dist.all_reduce(sums)
        loss, norm = sums[0] / self._batch_size, sums[1].sqrt()
        is_spike = ~(loss.isfinite() & norm.isfinite()) | (loss > self._limit())
        is_left_out = torch.ones_like(is_spike) if int(state.timestamp.batch) + 1 in self.skips else is_spike
        for optimizer in state.optimizers:
            optimizer.found_inf.copy_(is_left_out)
        if self._clip is not None:
            factor = (self._clip / (norm + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
            torch._foreach_mul_(gradients, factor.masked_fill(is_spike, 1.0))
        self._judgement = torch.stack([is_spike, norm])

    def batch_end(self, state: State, logger: Logger) -> None:
        is_spike, norm = self._judgement.tolist()
        loss, batch = state.total_loss_dict["loss/train/total"], int(state.timestamp.batch)
        logger.log_metrics({"grad_norm": norm})
        if batch in self.skips:
            logger.log_metrics({"skipped": 1})
        elif is_spike:
            self._answer(gather_evidence(batch, self._reason(batch, loss, norm), state.batch, self._parameters), logger)
        else:
            self._losses.append(loss)

    def remember(self, spike: Spike, discard_after: int | None = None) -> None:
        """Have the run leave out the spike's batches from now on, whoever goes on with it. A collective."""
        self.skips = replace(self.skips, spikes=(*self.skips.spikes, spike), discard_after=discard_after)
        on_rank_zero(lambda: write_skips(self.folder, self.skips))

    def state_dict(self) -> dict[str, Any]:
        return {"skips": self.skips.to_json(), "losses": list(self._losses)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._loaded = Skips.from_json(state["skips"])
        self.skips = self.skips if self.skips.spikes else self._loaded
        self._losses = self._window(state["losses"])

    def _window(self, losses: list[float]) -> deque[float]:
        return deque(losses, maxlen=self.settings.outliers.window if self.settings.outliers else 0)

    def _limit(self) -> float:
        """The highest loss that is no spike."""
        outliers = self.settings.outliers
        if outliers is None or len(self._losses) < outliers.window // 2:
            return math.inf
        return fmean(self._losses) + outliers.sigmas * stdev(self._losses)

    def _reason(self, batch: int, loss: float, norm: float) -> str:
        if not math.isfinite(loss):
            return f"the loss is {loss} at batch {batch}"
        if not math.isfinite(norm):
            return f"the gradient's norm is {norm} at batch {batch}, the loss {loss:.4g}"
        return f"the loss is {loss:.4g} at batch {batch}; of the {len(self._losses)} before, {fmean(self._losses):.4g}"

    def _answer(self, evidence: Evidence, logger: Logger) -> None:
        batch, settings = evidence.batch, self.settings
        on_rank_zero(lambda: keep_evidence(self.folder, evidence))
        if settings.action == "stop":
            raise DivergedError(
                f"{evidence}. No weight was changed by it, and the checkpoints before it are kept. Start again with "
                "loss_spikes.action=skip or rewind to go on without this batch; or with a lower optimizer.base_lr, a "
                "gradient_clip or a higher precision (and allow_changed_config=true)"
            )
        if self.skips.in_a_row(batch) >= settings.max_in_a_row:
            too_many = f"{settings.max_in_a_row} in a row (loss_spikes.max_in_a_row) before it"
            raise DivergedError(f"{evidence}; {too_many}. {_CALMER}")
        if len(self.skips.spikes) >= settings.max_spikes:
            too_many = f"{settings.max_spikes} spikes (loss_spikes.max_spikes) before it"
            raise DivergedError(f"{evidence}; {too_many}. {_CALMER}")
        if settings.action == "rewind":
            log.warning("%s; going back", evidence)
            raise RewindError(batch)
        log.warning("%s; left out", evidence)
        self.remember(Spike(batch, batch, batch))
        logger.log_metrics({"skipped": 1})


def _total(loss: Any) -> Tensor:
    """What Composer lets the backward pass begin with."""
    if isinstance(loss, dict) and "total" in loss:
        return loss["total"].mean()
    return torch.stack([part.mean() for part in ensure_tuple(loss)]).sum()
