"""Positions and patches of another size fit where it is asked for, and the log says so."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from maws_composer.evaluation.encoder import load_encoder
from maws_composer.models.sizes import SIZES
from tests.runs import Runs
from tests.weights import foreign

MICRO = SIZES["vit_micro"]


def resampled(positions: Tensor, side: int) -> Tensor:
    """As the MAE authors' util/pos_embed.py describes it."""
    first, grid = positions[:, :1], positions[:, 1:]
    old = round(grid.shape[1] ** 0.5)
    picture = grid.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    picture = interpolate(picture, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([first, picture.permute(0, 2, 3, 1).flatten(1, 2)], 1)


def test_an_evaluation_at_another_image_and_patch_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = foreign.mae_state(MICRO.width, MICRO.depth, MICRO.patch_size, 4, decoder_width=32, decoder_depth=1)
    torch.save(state, tmp_path / "mae.pth")
    caplog.set_level(logging.INFO)
    encoder = load_encoder(str(tmp_path / "mae.pth"), image_size=48, patch_size=8)
    torch.testing.assert_close(encoder.pos_embed, resampled(state["pos_embed"], 6), rtol=1e-5, atol=1e-5)
    assert (
        "is resized: pos_embed 1 x 17 x 128 -> 1 x 37 x 128, patch_embed.proj.weight 128 x 3 x 6 x 6 -> 128 x 3 x 8 x 8"
    ) in caplog.text
    # What a filter says of a patch, the resized one says of the resized patch (Beyer et al. 2022).
    patches = torch.randn(9, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    larger = interpolate(patches, size=(8, 8), mode="bicubic", antialias=True)
    old = patches.flatten(1) @ state["patch_embed.proj.weight"].flatten(1).T
    new = larger.flatten(1) @ encoder.patch_embed.proj.weight.flatten(1).T
    torch.testing.assert_close(new, old, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_mae_goes_on_from_a_released_file_with_its_decoder_at_another_image_size(runs: Runs) -> None:
    state = foreign.mae_state(MICRO.width, MICRO.depth, MICRO.patch_size, 8, decoder_width=32, decoder_depth=1)
    torch.save({"model": state}, runs.folder / "mae.pth")
    start = (f"initialize_from={runs.folder}/mae.pth", "initialize_whole=true", "max_duration=16sp")
    record = ("code_paths=[tests/plugins]", f"callbacks.record_encoder.file={runs.folder}/encoder.pt")
    assert "set initialize_resize=true" in runs("refused", *start).output
    finished = runs("run", *start, *record, "initialize_resize=true")
    assert finished.code == 0, finished.output
    told = (
        f"all weights from {runs.folder}/mae.pth: 74 tensors of 74 taken; 0 left there; 0 start anew; "
        "resized: pos_embed 1 x 65 x 128 -> 1 x 17 x 128, decoder_pos_embed 1 x 65 x 32 -> 1 x 17 x 32"
    )
    assert re.search(re.escape(told), finished.output), finished.output
    encoder = torch.load(runs.folder / "encoder.pt", weights_only=True)
    torch.testing.assert_close(encoder["pos_embed"], resampled(state["pos_embed"], 4), rtol=1e-5, atol=1e-5)
    assert torch.equal(encoder["blocks.3.mlp.fc2.bias"], state["blocks.3.mlp.fc2.bias"])
