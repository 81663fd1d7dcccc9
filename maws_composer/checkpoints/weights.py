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


class SavedModel:
    """A checkpoint's model, of which nothing but names and shapes is read before a tensor is asked for.

    Args:
        checkpoint: a folder such as runs/mae/checkpoints/ep0-ba800, local or in object storage; any number of ranks
            may have written it.

    Attributes:
        shapes: name -> shape. Optimizer states are not among them.
        dtypes: name -> dtype.
    """

    def __init__(self, checkpoint: RunPath) -> None:
        self._reader = SafeReader(checkpoint)
        self._saved = {
            name.removeprefix(_MODEL): entry
            for name, entry in self._reader.read_metadata().state_dict_metadata.items()
            if name.startswith(_MODEL) and isinstance(entry, TensorStorageMetadata)
        }
        self.shapes = {name: entry.size for name, entry in self._saved.items()}
        self.dtypes = {name: entry.properties.dtype for name, entry in self._saved.items()}

    def read(self, name: str) -> Tensor:
        """One tensor, whole, on the CPU."""
        entry = self._saved[name]
        tensor = torch.empty(entry.size, dtype=entry.properties.dtype)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as intended
            dcp.load({_MODEL + name: tensor}, storage_reader=self._reader, planner=SafePlanner(), no_dist=True)
        return tensor
