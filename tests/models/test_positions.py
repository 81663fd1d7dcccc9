"""Fixed positions are the closed form of the MAE paper's code."""

import math

import pytest
import torch

from maws_composer.models.positions import sincos_positions


@pytest.mark.parametrize(("width", "grid"), [(16, (3, 3)), (24, (2, 5)), (128, (8, 8))])
def test_positions_are_the_closed_form(width, grid):
    rows, columns = grid
    got = sincos_positions(width, grid)
    assert got.shape == (1 + rows * columns, width)
    assert got.dtype == torch.float64
    assert not got[0].any()
    half, quarter = width // 2, width // 4
    for row in range(rows):
        for column in range(columns):
            for axis, position in enumerate((column, row)):
                for i in range(quarter):
                    angle = position / 10000 ** (2 * i / half)
                    embedding = got[1 + row * columns + column, axis * half :]
                    assert embedding[i].item() == pytest.approx(math.sin(angle), abs=1e-12)
                    assert embedding[quarter + i].item() == pytest.approx(math.cos(angle), abs=1e-12)


def test_positions_are_real_inside_the_meta_device():
    with torch.device("meta"):
        positions = sincos_positions(16, (2, 2), class_token=False)
    assert positions.device.type == "cpu"
    assert positions.shape == (4, 16)
