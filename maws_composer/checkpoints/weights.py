"""The model's tensors out of a sharded checkpoint, in one process, without the model that wrote it."""

from __future__ import annotations

import warnings

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from maws_composer.checkpoints.completeness import RunPath
from maws_composer.checkpoints.safe_reading import SafePlanner, SafeReader

_MODEL = "state.model."
_AVERAGE = "state.callbacks.EMA.weights."  # kept there by the callback `ema`


class SavedModel:
    """A checkpoint's model, of which nothing but names and shapes is read before a tensor is asked for.

    Args:
        checkpoint: a folder such as runs/mae/checkpoints/ep0-ba800, local or in object storage; any number of ranks
            may have written it.
        averaged: take the moving average of each weight that has one.

    Attributes:
        shapes: name -> shape. Optimizer states are not among them.
        dtypes: name -> dtype.

    Raises:
        LookupError: the checkpoint has no averages.
    """

    def __init__(self, checkpoint: RunPath, averaged: bool = False) -> None:
        self._reader = SafeReader(checkpoint)
        weights, averages = self._entries(_MODEL), self._entries(_AVERAGE)
        if averaged and not averages:
            raise LookupError(f"{checkpoint} has no moving average of weights: its run was without callbacks.ema")
        self._averaged = averages.keys() if averaged else set()
        self._saved = weights
        self.shapes = {name: entry.size for name, entry in self._saved.items()}
        self.dtypes = {name: entry.properties.dtype for name, entry in self._saved.items()}

    def read(self, name: str) -> Tensor:
        """One tensor, whole, on the CPU."""
        entry, key = self._saved[name], f"{_AVERAGE if name in self._averaged else _MODEL}{name}"
        tensor = torch.empty(entry.size, dtype=entry.properties.dtype)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as intended
            dcp.load({key: tensor}, storage_reader=self._reader, planner=SafePlanner(), no_dist=True)
        return tensor

    def _entries(self, prefix: str) -> dict[str, TensorStorageMetadata]:
        return {
            name.removeprefix(prefix): entry
            for name, entry in self._reader.read_metadata().state_dict_metadata.items()
            if name.startswith(prefix) and isinstance(entry, TensorStorageMetadata)
        }
