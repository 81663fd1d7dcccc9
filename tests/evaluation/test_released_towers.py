"""Zero-shot with a released MAWS-CLIP file: both towers as the released code has them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from maws_composer.config.problems import ConfigError
from maws_composer.data.captions import CaptionTokenizer
from maws_composer.evaluation.encoder import load_encoder
from maws_composer.evaluation.extraction import encode
from maws_composer.evaluation.towers import find_image_text, load_towers, places_of
from maws_composer.models.sizes import SIZES
from maws_composer.registry import load_plugins
from maws_composer.stages.pixels import normalize as normalize_pixels
from tests.text_towers import write_text_tower
from tests.weights import foreign

MICRO = SIZES["vit_micro"]
WORDS, WIDTH, DEPTH, HEADS, POSITIONS, EMBED = 200, 32, 2, 2, 110, 24  # positions for the 102 tokens of the released
TEXTS = ["a red square", "赤い四角", "مثلثان أخضران", ""]


@torch.no_grad()
def test_a_released_file_gives_the_features_of_the_released_code(tmp_path: Path) -> None:
    load_plugins(["maws_composer.stages"])
    torch.manual_seed(0)
    text = foreign.TorchtextRoberta(WORDS, WIDTH, DEPTH, HEADS, POSITIONS).eval()
    shapes = foreign.vit_shapes(MICRO.width, MICRO.depth, MICRO.patch_size, 16)
    vit = foreign.random_state(shapes | foreign.norm_shapes("norm", MICRO.width))
    state = foreign.maws_clip(vit, text, MICRO.width, WIDTH, EMBED)
    file = tmp_path / "clip.pt"
    torch.save(state, file)
    with pytest.raises(ConfigError, match="has a text tower 32 wide, which is none that we know"):
        find_image_text(str(file))
    tower = str(write_text_tower(tmp_path / "tower", width=WIDTH, heads=HEADS, positions=POSITIONS, rows=WORDS))
    model = find_image_text(str(file), text_tower=tower)
    assert model is not None
    towers = load_towers(model, torch.device("cpu"), "fp32")
    tokens = CaptionTokenizer(tower, 102)(TEXTS)["input_ids"]
    expected = normalize(text(tokens) @ state["text_projection"], dim=-1)
    torch.testing.assert_close(towers.encode_text(TEXTS), expected, rtol=1e-5, atol=1e-5)

    pixels = torch.randint(0, 256, (3, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    places = places_of(str(file), text_tower=tower)
    features = partial(encode, load_encoder(places.image_tower, places.image_size), "class_token")(pixels)
    last = foreign.norm(vit, "norm", foreign.vit_tokens(vit, normalize_pixels(pixels), MICRO.heads))
    expected = normalize(last[:, 0] @ state["vision_projection"], dim=-1)
    torch.testing.assert_close(towers.project(features), expected, rtol=1e-5, atol=1e-5)
