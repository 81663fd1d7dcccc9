"""How a batch crosses from a loader process to its rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

_PIPE = 1 << 16  # bytes that a pipe takes at once


class CrossingBatch(dict[str, Any]):
    """A batch whose small tensors cross as bytes; on the other side it is a dict of tensors.

    PyTorch gives each tensor a file in shared memory and hands over its descriptor through a socket of its own, which
    for five small ones takes longer than to read all samples of the batch.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _as_tensors, ({name: value.numpy() if _is_small(value) else value for name, value in self.items()},)


def _is_small(value: Any) -> bool:
    return isinstance(value, Tensor) and value.nbytes <= _PIPE


def _as_tensors(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in batch.items()}
