"""Blocks that stay gathered for the backward pass train as others do, and are shards again where none comes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from composer.models import ComposerModel
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from maws_composer.optim.build import build_optimizer
from maws_composer.parallel.shard import shard
from maws_composer.stages.build import build_stage
from tests.step.miniature import STAGES, build_trainer, load, make_batch


def policy(reshards: bool) -> str:
    return f"speed.sharding.reshard_after_forward={str(reshards).lower()}"


def sharded(stage: str, folder: Path, reshards: bool, *given: str) -> tuple[ComposerModel, Optimizer]:
    run = load(stage, folder, policy(reshards), *given)
    model = build_stage(run)
    shard(model, run.speed, run.precision, run.seed, torch.device("cpu"))
    return model.train(), build_optimizer(model, run)


def gathered(model: ComposerModel) -> set[int]:
    """Numbers of the blocks whose parameters are whole."""
    blocks = enumerate(model.blocks())
    return {number for number, block in blocks if any(not isinstance(each, DTensor) for each in block.parameters())}


def weights(model: ComposerModel) -> dict[str, Tensor]:
    return {name: value.full_tensor() for name, value in model.state_dict().items() if isinstance(value, DTensor)}


def assert_same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("checkpointing", ["none", pytest.param("2", marks=pytest.mark.slow)])
def test_a_run_has_the_same_bits(tmp_path: Path, stage: str, checkpointing: str) -> None:
    """In microbatches, which LiT embeds twice, with an evaluation after every second step."""
    ends = []
    for reshards in (True, False):
        given = ["speed.device_train_microbatch_size=3", f"speed.activation_checkpointing={checkpointing}"]
        run = load(stage, tmp_path, policy(reshards), *given)
        trainer = build_trainer(run, tmp_path, [make_batch(stage, number) for number in range(3)], make_batch(stage, 9))
        trainer.fit(duration="3ba")
        assert not gathered(trainer.state.model)
        ends.append(weights(trainer.state.model))
        trainer.close()
    assert_same_bits(*ends)


@pytest.mark.parametrize("stage", STAGES)
def test_a_forward_pass_without_gradient_leaves_shards(tmp_path: Path, stage: str) -> None:
    model, _ = sharded(stage, tmp_path, False)
    batch = make_batch(stage)
    with torch.no_grad():
        model(batch)
    assert not gathered(model)


def test_a_locked_tower_is_let_go_while_the_other_waits_for_its_backward_pass(tmp_path: Path) -> None:
    model, _ = sharded("lit", tmp_path, False)
    images = len(model.clip.encoder.blocks)
    batch = make_batch("lit")
    loss = model.loss(model(batch), batch)
    assert gathered(model) == {*range(images, len(model.blocks()))}
    loss.backward()
    assert not gathered(model)


@pytest.mark.parametrize("stage", ["mae", "lit"])  # what a new wsp says is the same whatever its blocks do
def test_a_forward_pass_that_was_given_up_leaves_no_old_weights(tmp_path: Path, stage: str) -> None:
    losses = []
    for reshards in (True, False):
        model, optimizer = sharded(stage, tmp_path, reshards)
        batch, taken = make_batch(stage), []
        for is_given_up in (False, True, False):
            loss = model.loss(model(batch), batch)
            if not is_given_up:
                loss.backward()
            else:
                optimizer.step()  # with the gradients that there are
                optimizer.zero_grad()
            taken.append(loss.item())
        losses.append(taken)
    assert losses[0] == losses[1]
    assert losses[0][0] == losses[0][1] != losses[0][2]


def test_a_checkpoint_after_a_forward_pass_that_was_given_up_is_of_shards(tmp_path: Path) -> None:
    model, _ = sharded("mae", tmp_path, False)
    before = weights(model)
    model(make_batch("mae"))
    assert gathered(model)
    assert_same_bits(before, weights(model))
    assert not gathered(model)
