"""The planner's FLOPs are those of the table and those that torch counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from maws_composer.models.mae import MaskedAutoencoder
from maws_composer.models.sizes import SIZES, DecoderSize, ViTSize
from maws_composer.models.vit import VisionTransformer
from maws_composer.planning.flops import classifier_macs, mae_macs, training_flops, vit_macs

# FACTS 2.2, in G: forward MACs of WSP with 28,000 classes, FLOPs of training it
WSP = {
    "vit_b16": (17.58, 105.5),
    "vit_l16": (61.58, 369.5),
    "vit_h14": (167.33, 1004),
    "vit_2b14": (493.64, 2961.9),
    "vit_6.5b14": (1673.76, 10042.5),
}
# FACTS 2.2, in G: ViT forward, MAE encoder, decoder, forward MACs; FLOPs of training the MAE
TABLE = {
    "vit_b16": (17.56, 4.41, 5.37, 9.78, 58.7),
    "vit_l16": (61.55, 15.38, 5.38, 20.76, 124.5),
    "vit_h14": (167.29, 41.43, 7.13, 48.56, 291.4),
    "vit_2b14": (493.57, 123.59, 7.17, 130.76, 784.6),
    "vit_6.5b14": (1673.64, 420.48, 7.22, 427.71, 2566.2),
}
FINE_TUNING = {"vit_b16": (512, 107.0), "vit_l16": (512, 362.0), "vit_h14": (518, 1016.7)} | {
    "vit_2b14": (518, 2818.5),
    "vit_6.5b14": (518, 9321.5),
}
# FACTS 2.2: FLOPs of 5 B samples, WSP and MAE; the share of an MAE step in a WSP step
RUNS = {
    "vit_b16": (5.275e20, 2.934e20, 0.556),
    "vit_l16": (1.847e21, 6.227e20, 0.337),
    "vit_h14": (5.020e21, 1.457e21, 0.290),
    "vit_2b14": (1.481e22, 3.923e21, 0.265),
    "vit_6.5b14": (5.021e22, 1.283e22, 0.256),
}


def counted(function) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def not_wanted(decoder: DecoderSize, size: ViTSize, others: int, tokens: int) -> int:
    """MACs that the last block and the head save on tokens that are not hidden: all but queries, keys and values."""
    attention, projection_and_mlp = 2 * tokens * decoder.width, 9 * decoder.width**2
    return others * (attention + projection_and_mlp + decoder.width * size.patch_values)


@pytest.mark.parametrize("name", TABLE)
def test_flops_are_those_of_the_table(name):
    size = SIZES[name]
    mae = mae_macs(size)
    figures = (vit_macs(size), mae.encoder, mae.decoder, mae.total, training_flops(mae.total))
    assert [figure / 1e9 for figure in figures] == pytest.approx(TABLE[name], rel=1e-3)
    image_size, macs = FINE_TUNING[name]
    assert vit_macs(size, image_size) / 1e9 == pytest.approx(macs, rel=1e-3)


@pytest.mark.parametrize("name", WSP)
def test_flops_of_wsp_are_those_of_the_table(name):
    macs = classifier_macs(SIZES[name], 28_000)
    assert [macs / 1e9, training_flops(macs) / 1e9] == pytest.approx(WSP[name], rel=1e-3)
    assert macs - vit_macs(SIZES[name]) == 28_000 * SIZES[name].width


@pytest.mark.parametrize("name", RUNS)
def test_flops_of_a_run_are_those_of_the_table(name):
    wsp, mae = (training_flops(macs) for macs in (classifier_macs(SIZES[name], 28_000), mae_macs(SIZES[name]).total))
    assert [5e9 * wsp, 5e9 * mae, mae / wsp] == pytest.approx(RUNS[name], rel=2e-3)


@pytest.mark.parametrize("name", SIZES)
def test_torch_counts_the_same_forward(name):
    size, image_size = SIZES[name], 48 if name == "vit_micro" else 224
    with torch.device("meta"):
        encoder = VisionTransformer(size, image_size, fixed_positions=True)
        mae = MaskedAutoencoder(encoder)
        images = torch.empty(1, 3, image_size, image_size)
        noise = torch.empty(1, size.patches(image_size), dtype=torch.int64)
    assert 2 * vit_macs(size, image_size) == pytest.approx(counted(lambda: encoder(images)), rel=5e-3)
    # In the figures only: the hidden patches are embedded, the others come out of the last block and are guessed.
    hidden, others = size.patches(image_size) - mae.visible, 1 + mae.visible
    left_out = hidden * size.width * size.patch_values + not_wanted(DecoderSize(), size, others, others + hidden)
    total = mae_macs(size, image_size).total - left_out
    assert 2 * total == pytest.approx(counted(lambda: mae(images, noise)), rel=5e-3)


def test_training_is_three_forwards():
    size, decoder = SIZES["vit_micro"], DecoderSize(width=96, depth=3, heads=4)
    with torch.device("meta"):
        mae = MaskedAutoencoder(VisionTransformer(size, 48, fixed_positions=True), decoder, 0.5)
        images, noise = torch.empty(1, 3, 48, 48), torch.empty(1, 64, dtype=torch.int64)
    steps = counted(lambda: mae(images, noise).loss.backward())
    # The first layer needs no gradient of the images, and does nothing for the 32 hidden ones of 64 patches.
    without = 2 * ((32 + 3 * 32) * size.width * size.patch_values + 3 * not_wanted(decoder, size, 33, 65))
    assert training_flops(mae_macs(size, 48, 0.5, decoder).total) == pytest.approx(steps + without, rel=5e-3)
