"""Every parameter is initialized as in the MAE paper, whatever the order."""

import math

import pytest
import torch

from maws_composer.models.initialization import initialize, parameter_generator
from maws_composer.models.mae import MaskedAutoencoder
from maws_composer.models.positions import sincos_positions
from maws_composer.models.sizes import SIZES
from maws_composer.models.vit import VisionTransformer


def micro_mae(qk_norm=True):
    return MaskedAutoencoder(VisionTransformer(SIZES["vit_micro"], 48, fixed_positions=True, qk_norm=qk_norm))


def test_no_parameter_stays_nan_and_the_order_does_not_matter():
    forward, backward = micro_mae(), micro_mae()
    with torch.no_grad():
        for parameter in [*forward.parameters(), *backward.parameters()]:
            parameter.fill_(math.nan)
    initialize(forward, seed=3)
    for name, parameter in reversed(list(backward.named_parameters())):
        backward.initialize_parameter(name, parameter.data, parameter_generator(3, name))
    for (name, one), other in zip(forward.named_parameters(), backward.parameters(), strict=True):
        assert not one.isnan().any(), name
        assert torch.equal(one, other), name


def test_another_seed_and_another_name_draw_other_numbers():
    drawn = [torch.rand(4, generator=parameter_generator(*key)) for key in ((0, "a"), (1, "a"), (0, "b"))]
    assert len({tuple(numbers.tolist()) for numbers in drawn}) == 3


def test_parameters_start_as_in_the_mae_paper():
    mae = micro_mae()
    initialize(mae, 0)
    for name, parameter in mae.named_parameters():
        if name.endswith("pos_embed"):
            assert torch.equal(parameter[0], sincos_positions(parameter.shape[-1], (8, 8)).float())
        elif name.endswith(("cls_token", "mask_token")):
            assert abs(parameter.std().item() - 0.02) < 0.005
            assert abs(parameter.mean().item()) < 0.005
        elif name.endswith("bias"):
            assert not parameter.any(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            fan_out, fan_in = parameter.flatten(1).shape
            bound = math.sqrt(6 / (fan_in + fan_out))
            assert 0.99 * bound < parameter.abs().max().item() <= bound * (1 + 1e-6), name
            assert parameter.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02), name


def test_an_unknown_name_is_an_error():
    mae = micro_mae()
    for name in ("blocks.0.attn.rel_pos", "encoder.head.weight", "decoder_blocks.0.attn.qkv", "encoder.mask"):
        with pytest.raises(ValueError) as error:
            mae.initialize_parameter(name, torch.zeros(2, 2), torch.Generator())
        assert str(error.value) == f"no rule says how to initialize parameter {name.removeprefix('encoder.')}"


def test_a_model_that_nobody_initialized_computes_nan():
    output = micro_mae()(torch.zeros(1, 3, 48, 48), torch.arange(64)[None])
    assert output.loss.isnan()
