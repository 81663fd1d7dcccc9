"""Samples for people to look at: the same ones on any number of processes, and with any batch size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def all_over(samples: int, count: int) -> set[int]:
    """Positions of `count` samples from all over a dataset: neighbors in it are often of one kind."""
    return {(2 * part + 1) * samples // (2 * count) for part in range(count)}


def rows_of(batch: Mapping[str, Any], positions: set[int]) -> dict[int, int]:
    """Position -> row, of those samples that this rank's batch has; not of what only fills it, or replaces another."""
    real = (batch["valid"] & ~batch["replaced"]).tolist()
    found = zip(batch["position"].tolist(), real, strict=True)
    return {position: row for row, (position, is_real) in enumerate(found) if is_real and position in positions}


def everybodys(own: Mapping[int, Tensor]) -> Tensor | None:
    """What the ranks have, in the order of the positions, below one another; None: no rank has any. A collective."""
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, own)
    found = {position: tensor for part in parts for position, tensor in part.items()}
    return torch.stack([found[position] for position in sorted(found)]) if found else None
