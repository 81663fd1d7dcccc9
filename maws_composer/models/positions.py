"""Fixed 2-D sin-cos position embeddings (He et al. 2021, appendix A; Vaswani et al. 2017 along each axis)."""

import torch
from jaxtyping import Float
from torch import Tensor


def sincos_positions(width: int, grid: tuple[int, int], class_token: bool = True) -> Float[Tensor, "tokens width"]:
    """Position embeddings of a grid of patches, row by row.

    The first half of the channels tells the column, the second half the row; within a half come first all sines,
    then all cosines, of position / 10000^(2i / half).

    Args:
        width: channels, a multiple of 4.
        grid: rows and columns of patches.
        class_token: put a row of zeros before the patches.

    Returns:
        float64, so that the caller rounds once, to the dtype that it stores.
    """
    rows, columns = grid
    row, column = torch.meshgrid(_count(rows), _count(columns), indexing="ij")
    patches = torch.cat([_sincos(column.flatten(), width // 2), _sincos(row.flatten(), width // 2)], dim=1)
    if not class_token:
        return patches
    return torch.cat([patches.new_zeros(1, width), patches])


def _sincos(position: Float[Tensor, " patches"], width: int) -> Float[Tensor, "patches width"]:
    frequency = 10000 ** -(2 * _count(width // 2) / width)
    angle = position[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def _count(stop: int) -> Float[Tensor, " stop"]:
    # the device is named because models are built under torch.device("meta")
    return torch.arange(stop, dtype=torch.float64, device="cpu")
