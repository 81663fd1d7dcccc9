"""What can be told of a step that went wrong: the norm of each parameter's gradient, and the samples of the batch."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from maws_composer.checkpoints.run_folder import RunFolder, send
from maws_composer.outages import StorageError, insist

log = logging.getLogger(__name__)

_SHOWN = 3
_PATIENCE = 20.0  # seconds


@dataclass(frozen=True)
class Evidence:
    """Of one step, the same on every rank.

    Attributes:
        batch: as metrics.jsonl counts.
        reason: what was wrong with it.
        gradient_norms: parameter -> norm of its gradient before clipping, in the order of the model.
        epoch: of the samples.
        positions: of the global batch's samples in the epoch's order, ascending.
        ids: of the samples, in that order.
    """

    batch: int
    reason: str
    gradient_norms: dict[str, float]
    epoch: int
    positions: list[int]
    ids: list[str]

    def __str__(self) -> str:
        """A sentence or two for the log."""
        ids = ", ".join(self.ids[:_SHOWN])
        return f"{self.reason}; {self._parameters()}; {len(self.ids)} samples, {ids}, …: all in {_file(self.batch)}"

    def _parameters(self) -> str:
        broken = [name for name, norm in self.gradient_norms.items() if not math.isfinite(norm)]
        if broken:
            # The backward pass comes from the end of the model, and what is broken spreads from there to the beginning.
            share, first = f"{len(broken)} of {len(self.gradient_norms)}", ", ".join(broken[: -_SHOWN - 1 : -1])
            return f"{share} gradients not finite, in the backward pass first {first}"
        largest = sorted(self.gradient_norms, key=self.gradient_norms.__getitem__, reverse=True)[:_SHOWN]
        return "largest gradients: " + ", ".join(f"{name} ({self.gradient_norms[name]:.3g})" for name in largest)


def gather_evidence(
    number: int, reason: str, batch: Mapping[str, Any], parameters: Mapping[str, nn.Parameter]
) -> Evidence:
    """Look at a step before its gradients are gone. A collective, of one round for each parameter.

    Args:
        number: of the batch.
        reason: what was wrong with it.
        batch: this rank's share.
        parameters: the trained ones.
    """
    norms = {
        name: float(torch.linalg.vector_norm(parameter.grad).full_tensor())
        for name, parameter in parameters.items()
        if parameter.grad is not None
    }
    shares: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(shares, list(zip(batch["position"].tolist(), batch["id"], strict=True)))
    rows = sorted(row for share in shares for row in share)
    epoch = int(batch["epoch"][0])
    return Evidence(number, reason, norms, epoch, [row[0] for row in rows], [row[1] for row in rows])


def keep_evidence(folder: RunFolder, evidence: Evidence) -> None:
    """Write it to `spikes/ba<batch>.json` of the run's folder; null stands for NaN and infinities."""
    norms = {name: norm if math.isfinite(norm) else None for name, norm in evidence.gradient_norms.items()}
    name = _file(evidence.batch)
    path = folder.local / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**asdict(evidence), "gradient_norms": norms}, indent=1) + "\n")
    try:
        insist(lambda: send(folder, name), f"{folder.url}/{name}", _PATIENCE)
    except StorageError as error:  # the spike itself is what has to be seen
        log.warning("%s", error)


def _file(batch: int) -> str:
    return f"spikes/ba{batch}.json"
