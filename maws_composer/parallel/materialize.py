"""From the meta device to real parameters, with the same bits on any number of ranks."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from maws_composer.models.initialization import Initializable, parameter_generator


@torch.no_grad()
def materialize(module: nn.Module, device: torch.device, seed: int) -> None:
    """Allocate the parameters of a module built on the meta device, and initialize them.

    Each parameter is drawn whole on the CPU from a generator of its own, seeded by (seed, name), and each rank keeps
    its part: no communication, no dependence on the number of ranks, and at most one full tensor of memory above the
    shards. Everything is NaN before, so that a parameter that nobody initialized cannot hide.

    Raises:
        RuntimeError: naming the parameters that are still NaN, or buffers, which the meta device would have emptied.
    """
    buffers = [name for name, buffer in module.named_buffers() if buffer.is_meta]
    if buffers:
        raise RuntimeError(f"buffers do not survive the meta device: {', '.join(buffers)}; compute them in forward")
    _allocate(module, device)
    for name, parameter in module.named_parameters():
        full = torch.full(parameter.shape, float("nan"), dtype=parameter.dtype)
        cast(Initializable, module).initialize_parameter(name, full, parameter_generator(seed, name))
        parameter.copy_(as_sharded(full.to(device), parameter))
    missed = [name for name, parameter in module.named_parameters() if _local(parameter).isnan().any()]
    if missed:
        raise RuntimeError(f"initialize_parameter left NaN in {', '.join(missed)}")


def _allocate(module: nn.Module, device: torch.device) -> None:
    for part in module.modules():
        buffers = {name: buffer.to(device) for name, buffer in part.named_buffers(recurse=False)}
        if any(parameter.is_meta for parameter in part.parameters(recurse=False)):
            part.to_empty(device=device, recurse=False)
        for name, buffer in buffers.items():  # computed when the module was built, emptied with the parameters
            setattr(part, name, buffer)
    for parameter in module.parameters():
        _local(parameter).fill_(float("nan"))


def as_sharded(full: Tensor, like: Tensor) -> Tensor:
    """This rank's part of a tensor that every rank holds whole, sharded as `like` is; whole, if that is no DTensor."""
    if not isinstance(like, DTensor):
        return full
    # Every rank has the same bits: with no source rank nothing is sent.
    return distribute_tensor(full, like.device_mesh, like.placements, src_data_rank=None)


def _local(parameter: Tensor) -> Tensor:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter
