"""The memory estimate against what autograd really keeps, and against arithmetic by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from maws_composer.checkpoints.room import check_room
from maws_composer.config.plugins import load_with_ours
from maws_composer.models.initialization import initialize
from maws_composer.models.mae import MaskedAutoencoder
from maws_composer.models.sizes import SIZES, DecoderSize, ViTSize
from maws_composer.models.vit import VisionTransformer
from maws_composer.parallel.degrees import sharding_degrees
from maws_composer.planning.forecast import Cluster, forecast
from maws_composer.planning.memory import estimate_memory
from maws_composer.planning.plan import memory_of, workload_of
from maws_composer.planning.workload import mae_workload
from tests.processes import ROOT


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
    estimate = estimate_memory(workload, "fp32", images, 1, "none").kept
    # Kept for the loss's own backward pass, when blocks have not begun theirs.
    error = 0.75 * 4 * 3 * image_size**2 * images
    assert estimate == pytest.approx(kept_by_autograd(size, decoder, image_size, images) - error, rel=0.05)


def test_states_are_sixteen_bytes_per_trained_parameter_over_the_shards() -> None:
    workload = mae_workload(SIZES["vit_6.5b14"], 224, 0.75, DecoderSize(), qk_norm=False)
    estimate = estimate_memory(workload, "fp32", 32, 64, "none", passes=2)
    states = estimate.weights + estimate.gradients + estimate.moments
    assert states == pytest.approx(6_474_199_628 * 16 / 64, rel=1e-3)


def test_gradients_come_as_activations_go_unless_an_earlier_pass_left_them() -> None:
    workload = mae_workload(SIZES["vit_b16"], 224, 0.75, DecoderSize(), qk_norm=False)
    one, two = (estimate_memory(workload, "amp_bf16", 64, 1, "none", passes=passes) for passes in (1, 2))
    assert one.gradients == 0 and two.gradients == 4 * workload.parameters.trainable
    few = estimate_memory(workload, "amp_bf16", 1, 1, "none")  # of one image, weights and gradients are more
    assert few.gradients > 0.8 * two.gradients


def test_a_moving_average_counts_in_memory_and_in_checkpoints(tmp_path: Path) -> None:
    plain, averaged = (
        load_with_ours(
            ROOT / "yamls" / "mae_vit6.5b.yaml", ["data.train.remote=s3://b/x", f"save_folder={tmp_path}", *given]
        ).run
        for given in ([], ["callbacks.ema.half_life=10_000_000sp"])
    )
    workload = workload_of(plain)
    trained = workload.parameters.trainable
    before, after = (memory_of(run, workload, 64, 8) for run in (plain, averaged))
    _, shard = sharding_degrees(64, plain.speed.sharding.shard)
    assert after.callbacks - before.callbacks == pytest.approx(trained * 4 / shard)
    assert after.total > before.total + after.callbacks > before.total
    forecasts = [forecast(run, Cluster(gpus=64)) for run in (plain, averaged)]
    assert forecasts[1].checkpoint - forecasts[0].checkpoint == 4 * trained
    (little,), (much,) = (check_room(run, 10**15, 1, 1) for run in (plain, averaged))
    assert "takes 12,000,000.0 GB" in little.message and "takes 16,000,000.0 GB" in much.message


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
