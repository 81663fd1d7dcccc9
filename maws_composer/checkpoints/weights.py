"""Named tensors out of a sharded checkpoint, in one process, without the model that wrote it."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from maws_composer.checkpoints.safe_reading import SafePlanner, SafeReader


def read_weights(checkpoint: Path, prefix: str) -> dict[str, Tensor]:
    """The model's tensors whose names begin with `prefix`, whole, on the CPU; optimizer states are not read.

    Args:
        checkpoint: a folder such as runs/mae/checkpoints/ep0-ba800; any number of ranks may have written it.
        prefix: for example "mae.encoder."; it is cut off the names.

    Raises:
        KeyError: if there is no such tensor, naming what there is.
    """
    reader, begin = SafeReader(checkpoint), f"state.model.{prefix}"
    saved = reader.read_metadata().state_dict_metadata
    wanted = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in saved.items()
        if name.startswith(begin) and isinstance(entry, TensorStorageMetadata)
    }
    if not wanted:
        modules = sorted({name.split(".")[2] for name in saved if name.startswith("state.model.")})
        raise KeyError(f"{checkpoint} has no weights named {prefix}*; it has {', '.join(modules)}")
    dcp.load(wanted, storage_reader=reader, planner=SafePlanner(), no_dist=True)
    return {name.removeprefix(begin): tensor for name, tensor in wanted.items()}
