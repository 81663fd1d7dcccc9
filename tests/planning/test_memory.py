"""The memory estimate against what autograd really keeps, and against arithmetic by hand."""

from __future__ import annotations

import pytest
import torch

from maws_composer.models.initialization import initialize
from maws_composer.models.mae import MaskedAutoencoder
from maws_composer.models.sizes import SIZES, DecoderSize, ViTSize
from maws_composer.models.vit import VisionTransformer
from maws_composer.planning.memory import estimate_memory
from maws_composer.planning.workload import mae_workload


def kept_by_autograd(size: ViTSize, decoder: DecoderSize, image_size: int, images: int) -> int:
    """Bytes of the tensors that a forward pass keeps for the backward pass, parameters and inputs left out."""
    mae = MaskedAutoencoder(VisionTransformer(size, image_size, fixed_positions=True), decoder)
    initialize(mae, seed=0)
    pixels = torch.randn(images, 3, image_size, image_size)
    noise = torch.randint(0, 2**31, (images, size.patches(image_size)))
    known = {tensor.untyped_storage().data_ptr() for tensor in [*mae.parameters(), pixels, noise]}
    storages: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            storages[storage.data_ptr()] = storage.nbytes()
            alive.append(storage)  # or the next one may come to lie at the same place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = mae(pixels, noise).loss
    assert loss.requires_grad
    return sum(storages.values())


@pytest.mark.parametrize(
    ("size", "decoder", "image_size"),
    [
        (SIZES["vit_micro"], DecoderSize(96, 2, 4), 48),
        (ViTSize(192, 6, 3, 16), DecoderSize(64, 2, 2), 224),
        (ViTSize(256, 2, 4, 14), DecoderSize(128, 4, 4), 224),
    ],
)
def test_activations_are_those_that_autograd_keeps(size: ViTSize, decoder: DecoderSize, image_size: int) -> None:
    images = 4
    workload = mae_workload(size, image_size, 0.75, decoder, qk_norm=False)
    estimate = estimate_memory(workload, "fp32", images, 1, "none").activations
    kept = kept_by_autograd(size, decoder, image_size, images)
    assert 0.95 * kept < estimate < 1.25 * kept  # and what goes through a block


def test_states_are_sixteen_bytes_per_trained_parameter_over_the_shards() -> None:
    workload = mae_workload(SIZES["vit_6.5b14"], 224, 0.75, DecoderSize(), qk_norm=False)
    estimate = estimate_memory(workload, "fp32", 32, 64, "none")
    assert estimate.states == pytest.approx(6_474_199_628 * 16 / 64, rel=1e-3)


def test_checkpointing_keeps_inputs_only() -> None:
    workload = mae_workload(SIZES["vit_h14"], 224, 0.75, DecoderSize(), qk_norm=False)
    none, all_blocks, second = (
        estimate_memory(workload, "amp_bf16", 64, 8, which).activations for which in ("none", "all", 2)
    )
    assert all_blocks < 0.2 * none
    assert all_blocks < second < 0.6 * none


def test_every_second_block_counts_through_encoder_and_decoder() -> None:
    workload = mae_workload(ViTSize(64, 3, 1, 16), 224, 0.75, DecoderSize(64, 4, 1), qk_norm=False)
    assert workload.checkpointed_per_stack(2) == [2, 2]  # of 0..6 the blocks 0 and 2, then 4 and 6
    assert workload.checkpointed_per_stack("all") == [3, 4]
    assert workload.checkpointed_per_stack("none") == [0, 0]
