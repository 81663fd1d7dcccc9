"""Our ViTs are timm's, with patches that can be left out."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer

from maws_composer.models.initialization import initialize
from maws_composer.models.sizes import SIZES, DecoderSize, ViTSize, visible_patches
from maws_composer.models.vit import VisionTransformer

KEYS = {"vit_b16": 150, "vit_l16": 294, "vit_h14": 390, "vit_2b14": 294, "vit_6.5b14": 390}
BACKBONE = {
    "vit_b16": 85_798_656,
    "vit_l16": 303_301_632,
    "vit_h14": 630_764_800,
    "vit_2b14": 1_890_408_960,
    "vit_6.5b14": 6_447_632_384,
}  # FACTS 2.1


def timm_model(size: ViTSize, image_size: int, **options) -> TimmVisionTransformer:
    return TimmVisionTransformer(
        img_size=image_size,
        patch_size=size.patch_size,
        embed_dim=size.width,
        depth=size.depth,
        num_heads=size.heads,
        num_classes=0,
        **options,
    )


def random_model(size: ViTSize, image_size: int, **options) -> VisionTransformer:
    """Every parameter is random, also those that start as 0 or 1."""
    model = VisionTransformer(size, image_size, **options).eval()
    initialize(model, 0)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("name", KEYS)
def test_the_five_sizes_have_the_released_weights_keys_and_shapes(name):
    with torch.device("meta"):
        ours = VisionTransformer(SIZES[name])
        theirs = timm_model(SIZES[name], 224, weight_init="skip")
    shapes = {key: value.shape for key, value in ours.state_dict().items()}
    assert list(shapes) == list(theirs.state_dict())
    assert shapes == {key: value.shape for key, value in theirs.state_dict().items()}
    assert len(shapes) == KEYS[name]
    assert sum(p.numel() for p in ours.parameters()) == BACKBONE[name]
    assert not list(ours.buffers())


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize(("name", "image_size"), [("vit_micro", 48), ("vit_b16", 224)])
@torch.no_grad()
def test_timm_computes_the_same_from_our_weights(name, image_size, qk_norm):
    ours = random_model(SIZES[name], image_size, qk_norm=qk_norm)
    theirs = timm_model(SIZES[name], image_size, qk_norm=qk_norm).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(2, 3, image_size, image_size)
    torch.testing.assert_close(ours.forward_features(images), theirs.forward_features(images), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_all_patches_visible_is_the_ordinary_forward():
    model, images = random_model(SIZES["vit_micro"], 48), torch.randn(2, 3, 48, 48)
    want = model.forward_features(images)
    order = torch.stack([torch.randperm(64), torch.randperm(64)])
    got = model(images, order)
    torch.testing.assert_close(got[:, 0], want[:, 0], rtol=0, atol=1e-5)
    for image in range(2):
        torch.testing.assert_close(got[image, 1:], want[image, 1 + order[image]], rtol=0, atol=1e-5)


@torch.no_grad()
def test_hidden_patches_leave_no_trace():
    model, images = random_model(SIZES["vit_micro"], 48), torch.randn(2, 3, 48, 48)
    visible = torch.tensor([[3, 0, 63], [5, 8, 9]])
    before = model.forward_visible(images, visible)
    assert before.shape == (2, 4, 128)
    images[0, :, 6:12, 6:12] = 7.0  # patch 9: row 1, column 1
    after = model.forward_visible(images, visible)
    torch.testing.assert_close(after[0], before[0], rtol=0, atol=0)
    images[1, :, 6:12, 6:12] = 7.0
    assert not torch.allclose(model.forward_visible(images, visible)[1], before[1])


@pytest.mark.parametrize("fixed", [True, False])
def test_positions_are_trained_or_not(fixed):
    model = VisionTransformer(SIZES["vit_micro"], 48, fixed_positions=fixed)
    assert model.pos_embed.requires_grad is not fixed
    assert all(p.requires_grad for name, p in model.named_parameters() if name != "pos_embed")


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValueError) as error:
        VisionTransformer(SIZES["vit_h14"], 225)
    assert str(error.value) == "image size 225 is not a multiple of the patch size 14; use 224 or 238"
    with pytest.raises(ValueError, match="image size 10 is not a multiple of the patch size 14; use 14"):
        SIZES["vit_h14"].patches(10)
    with pytest.raises(ValueError, match="width 100 cannot be split over 3 heads"):
        ViTSize(width=100, depth=1, heads=3, patch_size=16)
    with pytest.raises(ValueError, match="width 90 is not a multiple of 4: sin and cos of two axes"):
        DecoderSize(width=90, heads=3)


def test_49_of_196_and_64_of_256_patches_are_visible():
    assert visible_patches(196, 0.75) == 49
    assert visible_patches(256, 0.75) == 64
    with pytest.raises(ValueError) as error:
        visible_patches(64, 0.99)
    assert str(error.value) == "mask ratio 0.99 leaves 0 of 64 patches visible; 0.75 is usual"
