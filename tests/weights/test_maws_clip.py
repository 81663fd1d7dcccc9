"""Released MAWS-CLIP weights give here, without torchtext, the features that they gave there; ours go there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from maws_composer.models.clip import ImageTextModel
from maws_composer.models.sizes import SIZES
from maws_composer.models.text_tower import TextSettings, build_text_tower
from maws_composer.models.vit import VisionTransformer
from maws_composer.weights.files import open_weights
from maws_composer.weights.layouts import to_maws_clip
from maws_composer.weights.sources import open_model
from maws_composer.weights.translation import translated
from tests.text_towers import write_text_tower
from tests.weights import foreign
from tests.weights.saved import same_bytes

MICRO = SIZES["vit_micro"]
IMAGE_SIZE = 4 * MICRO.patch_size
WORDS, WIDTH, DEPTH, HEADS, POSITIONS, EMBED = 50, 32, 2, 2, 40, 24


def theirs() -> tuple[foreign.TorchtextRoberta, foreign.State]:
    torch.manual_seed(0)
    text = foreign.TorchtextRoberta(WORDS, WIDTH, DEPTH, HEADS, POSITIONS).eval()
    shapes = foreign.vit_shapes(MICRO.width, MICRO.depth, MICRO.patch_size, 16) | foreign.norm_shapes(
        "norm", MICRO.width
    )
    return text, foreign.maws_clip(foreign.random_state(shapes), text, MICRO.width, WIDTH, EMBED)


def ours(folder: Path) -> ImageTextModel:
    tower = write_text_tower(folder / "tower", width=WIDTH, depth=DEPTH, heads=HEADS, positions=POSITIONS, rows=WORDS)
    text = build_text_tower(TextSettings(name=str(tower), context_length=20))
    return ImageTextModel(VisionTransformer(MICRO, IMAGE_SIZE), text, EMBED).eval()


def some_tokens() -> Tensor:
    """Of texts of several lengths, filled up."""
    ids = torch.randint(4, WORDS, (5, 12), generator=torch.Generator().manual_seed(0))
    for row, length in enumerate((12, 9, 4, 2, 7)):
        ids[row, length:] = foreign.TorchtextRoberta.PAD
    return ids


@pytest.mark.parametrize("generation", ["younger", "older"])
@torch.no_grad()
def test_features_are_those_of_the_released_code(generation: str, tmp_path: Path) -> None:
    text, state = theirs()
    torch.save(foreign.as_older(state) if generation == "older" else state, tmp_path / "clip.pt")
    source, model = open_model(str(tmp_path / "clip.pt")), ours(tmp_path)
    model.load_state_dict({name: source.read(name) for name in source.shapes}, strict=True)

    ids, images = some_tokens(), torch.randn(3, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(3))
    texts = normalize(text(ids) @ state["text_projection"], dim=-1)
    torch.testing.assert_close(model.encode_text(ids, (ids != 1).long()), texts, rtol=1e-5, atol=1e-5)
    vit = {name.removeprefix("vision_encoder."): tensor for name, tensor in state.items()}
    tokens = foreign.norm(vit, "norm", foreign.vit_tokens(vit, images, MICRO.heads))
    pictures = normalize(tokens[:, 0] @ state["vision_projection"], dim=-1)
    torch.testing.assert_close(model.encode_image(images), pictures, rtol=1e-5, atol=1e-5)
    assert float(model.logit_scale) == float(state["logit_scale"])


def test_what_is_written_is_what_was_read(tmp_path: Path) -> None:
    _, state = theirs()
    torch.save(state, tmp_path / "clip.pt")
    model = open_model(str(tmp_path / "clip.pt"))
    back = translated(model, to_maws_clip(model.shapes, DEPTH))
    same_bytes({name: back.read(name) for name in back.shapes}, state)
    torch.save(foreign.as_older(state), tmp_path / "older.pt")
    assert open_weights(str(tmp_path / "older.pt")).shapes.keys() != state.keys()
    older = open_model(str(tmp_path / "older.pt"))
    same_bytes({name: older.read(name) for name in older.shapes}, {name: model.read(name) for name in model.shapes})
