"""Pictures of an encoder, against what is known of it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.nn.functional import scaled_dot_product_attention

from maws_composer.config.plugins import load_with_ours
from maws_composer.models.attention import Block
from maws_composer.planning.preflight import check_callbacks
from maws_composer.registry import lookup
from maws_composer.reporting.encoder_pictures import (
    attention_over,
    draw_tiles,
    position_similarities,
    principal_filters,
)
from tests.callbacks.training import TRAINING, fit, load
from tests.golden_steps import SIZE, batches
from tests.processes import run_ranks

HELD_OUT = "data.eval.local=nowhere"
CALLBACKS = {
    "patch_embedding": {"every": "1ba", "filters": 5},
    "position_embedding": {"every": "1ba"},
    "attention_maps": {"images": 5},
    "reconstructions": {"images": 5},
}


def read(folder: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(folder / "pictures" / f"{name}.png"))


def test_a_filter_that_explains_most_comes_first() -> None:
    generator = torch.Generator().manual_seed(0)
    wave = torch.sin(torch.arange(4.0))[None, :, None].expand(3, 4, 4)
    weight = torch.randn(64, 1, 1, 1, generator=generator) * wave + 0.01 * torch.randn(64, 3, 4, 4, generator=generator)
    first, *_ = principal_filters(weight, 3).astype(float) / 255
    found, expected = first.transpose(2, 0, 1).ravel() - 0.5, wave.numpy().ravel()
    assert abs(np.corrcoef(found, expected)[0, 1]) > 0.99


def test_a_position_is_most_like_itself_and_no_more_than_its_opposite_is_unlike() -> None:
    positions = torch.eye(4)[[0, 1, 2, 3]]
    positions[3] = -positions[0]
    tiles = position_similarities(positions)
    assert tiles.shape == (4, 2, 2, 3)
    bright, dark = tiles[0, 0, 0], tiles[0, 1, 1]
    assert bright.tolist() == [253, 231, 37] and dark.tolist() == [68, 1, 84]  # viridis, from end to end
    assert all(tiles[place, place // 2, place % 2].tolist() == bright.tolist() for place in range(4))


def test_the_patch_with_most_attention_is_drawn_brightest() -> None:
    attention = torch.tensor([[0.1, 0.1, 0.1, 0.7]])
    tiles = attention_over(torch.zeros(1, 3, 20, 20, dtype=torch.uint8), attention)
    assert tiles.shape == (2, 20, 20, 3) and not tiles[0].any()
    brightness = tiles[1].sum(-1).astype(int)
    assert brightness[-1, -1] == brightness.max() and brightness[0, 0] < brightness[-1, -1] / 2


def test_tiles_lie_row_by_row() -> None:
    tiles = np.stack([np.full((2, 2, 3), shade, np.uint8) for shade in (10, 20, 30)])
    sheet = draw_tiles(tiles, columns=2, tile=4)
    assert sheet.shape == (10, 10, 3)
    assert [int(sheet[y, x, 0]) for y, x in ((0, 0), (0, 6), (6, 0), (6, 6), (4, 0))] == [10, 20, 30, 255, 255]


def test_attention_weights_are_those_of_the_fused_kernel(tmp_path: Path) -> None:
    load(tmp_path, {"attention_maps": {}}, 1, HELD_OUT)  # registers it
    module = sys.modules[lookup("callback", "attention_maps").builder.__module__]
    block, tokens = Block(32, 4, qk_norm=True), torch.randn(2, 5, 32)
    weights = module.attention_weights(block, tokens)  # type: ignore[attr-defined]
    queries, keys, _ = block.attn.qkv(block.norm1(tokens)).view(2, 5, 3, 4, 8).unbind(2)
    queries, keys = block.attn.q_norm(queries).transpose(1, 2), block.attn.k_norm(keys).transpose(1, 2)
    values = torch.eye(5).expand(2, 4, 5, 5)  # with these, what comes out are the weights
    torch.testing.assert_close(weights, scaled_dot_product_attention(queries, keys, values))


def test_pictures_change_nothing_and_two_ranks_draw_what_one_does(tmp_path: Path) -> None:
    # With a small eps, Adam would make steps of the last digits where a gradient is 0.
    settings = (HELD_OUT, "optimizer.eps=1e-3")
    alone = fit(tmp_path / "alone", CALLBACKS, 2, *settings, eval_interval="1ba")
    plain = fit(tmp_path / "plain", {}, 2, *settings, eval_interval="1ba")
    assert [step["loss"] for step in alone.steps] == [step["loss"] for step in plain.steps]
    names = sorted(path.stem for path in (tmp_path / "alone" / "pictures").glob("*.png"))
    drawn = ("attention", "patch_embedding", "position_embedding", "reconstructions")
    assert names == [f"{name}-ba{batch}" for name in drawn for batch in (1, 2)]
    arguments = {"folder": str(tmp_path / "two"), "callbacks": CALLBACKS, "steps": 2, "eval_interval": "1ba"}
    run_ranks(TRAINING, {**arguments, "overrides": settings}, world_size=2)
    for name in drawn:  # of attention, two of the 256 steps of the color scale
        one, two = (read(folder, f"{name}-ba2").astype(int) for folder in (tmp_path / "alone", tmp_path / "two"))
        assert one.shape == two.shape and np.abs(one - two).max() <= 5 and one.std() > 10


def test_images_are_from_all_over_the_held_out_ones(tmp_path: Path) -> None:
    fit(tmp_path, {"reconstructions": {"images": 4}}, 1, HELD_OUT, eval_interval="1ba")
    whole = torch.cat([batch["image"] for batch in batches()[:2]]).permute(0, 2, 3, 1).numpy()
    drawn, side = read(tmp_path, "reconstructions-ba1"), 6 * SIZE  # each pixel is six wide, and so are gaps
    for number, image in enumerate(whole[[4, 12, 20, 28]]):
        top, left = 26 + number % 2 * (side + 6), 6 + number // 2 * (3 * (side + 6) + 12)
        assert np.array_equal(drawn[top : top + side : 6, left : left + side : 6], image)


@pytest.mark.parametrize("name", CALLBACKS)
def test_what_cannot_be_drawn_is_told_before_training(tmp_path: Path, name: str) -> None:
    lit = {
        "stage": "lit",
        "model": {"size": "vit_micro", "image_embeddings": True},
        "data": {"train": {"local": "nowhere"}, "eval": {"local": "nowhere"}},
        "global_train_batch_size": 16,
        "max_duration": "16sp",
        "callbacks": {name: CALLBACKS[name]},
    }
    (tmp_path / "lit.yaml").write_text(yaml.safe_dump(lit))
    (problem,) = check_callbacks(load_with_ours(tmp_path / "lit.yaml").run)
    expected = "this stage reconstructs nothing" if name == "reconstructions" else "this stage reads image embeddings"
    assert problem.path == f"callbacks.{name}" and problem.message.startswith(expected)


@pytest.mark.parametrize("name", ["attention_maps", "reconstructions"])
def test_held_out_images_are_needed(tmp_path: Path, name: str) -> None:
    (problem,) = check_callbacks(load(tmp_path, {name: {}}).run)
    assert problem.message == "needs held-out images; set data.eval"
