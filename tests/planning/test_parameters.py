"""The planner counts the parameters that the models have."""

import subprocess
import sys

import pytest
import torch

from maws_composer.models.mae import MaskedAutoencoder
from maws_composer.models.sizes import SIZES, DecoderSize
from maws_composer.models.vit import VisionTransformer
from maws_composer.planning.parameters import (
    classifier_parameters,
    decoder_parameters,
    mae_parameters,
    vit_parameters,
)

TABLE = {
    "vit_b16": (85_798_656, 151_296, 26_109_184, 26_008_320, 111_907_840, 111_655_680),
    "vit_l16": (303_301_632, 201_728, 26_240_256, 26_139_392, 329_541_888, 329_239_296),
    "vit_h14": (630_764_800, 328_960, 26_309_708, 26_178_124, 657_074_508, 656_613_964),
    "vit_2b14": (1_890_408_960, 657_920, 26_965_068, 26_833_484, 1_917_374_028, 1_916_584_524),
    "vit_6.5b14": (6_447_632_384, 1_052_672, 27_751_500, 27_619_916, 6_475_383_884, 6_474_199_628),
}  # FACTS 2.1: backbone, its positions; decoder, trained part; MAE, trained part
# FACTS 2.1: the 28,000-class head; the model with 1,000 classes, and for which images; the paper's table 1, rounded
CLASSIFIERS = {
    "vit_b16": (21_532_000, 512, 87_203_560, 86e6),
    "vit_l16": (28_700_000, 512, 305_174_504, 307e6),
    "vit_h14": (35_868_000, 518, 633_470_440, 632e6),
    "vit_2b14": (71_708_000, 518, 1_895_819_240, 1.89e9),
    "vit_6.5b14": (114_716_000, 518, 6_456_288_232, 6.44e9),
}


@pytest.mark.parametrize("name", TABLE)
def test_counts_are_those_of_the_table(name):
    encoder = vit_parameters(SIZES[name], fixed_positions=True)
    decoder, mae = decoder_parameters(SIZES[name]), mae_parameters(SIZES[name])
    counts = (encoder.total, encoder.fixed, decoder.total, decoder.trainable, mae.total, mae.trainable)
    assert counts == TABLE[name]
    assert vit_parameters(SIZES[name]).trainable == encoder.total


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_counts_of_classifiers_are_those_of_the_table(name):
    head, image_size, fine_tuned, rounded = CLASSIFIERS[name]
    backbone = vit_parameters(SIZES[name]).total
    assert classifier_parameters(SIZES[name], 28_000).total - backbone == head
    assert classifier_parameters(SIZES[name], 1_000, image_size).total == fine_tuned
    assert backbone == pytest.approx(rounded, rel=0.015)  # two of the paper's are customary figures


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize(("name", "image_size"), [("vit_micro", 48), ("vit_b16", 512), ("vit_h14", 518)])
def test_counts_are_those_of_the_model(name, image_size, qk_norm):
    decoder = DecoderSize(width=96, depth=3, heads=4)
    with torch.device("meta"):
        encoder = VisionTransformer(SIZES[name], image_size, fixed_positions=True, qk_norm=qk_norm)
        mae = MaskedAutoencoder(encoder, decoder)
    counted = mae_parameters(SIZES[name], image_size, decoder, qk_norm=qk_norm)
    assert counted.total == sum(p.numel() for p in mae.parameters())
    assert counted.trainable == sum(p.numel() for p in mae.parameters() if p.requires_grad)


def test_counting_needs_no_torch():
    program = (
        "import sys; from maws_composer.planning import flops, parameters;"
        "sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
