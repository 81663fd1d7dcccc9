"""Two passes over microbatches give the loss and the gradients of the whole batch."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import maws_composer.stages  # noqa: F401 (registers sizes and losses)
from maws_composer.models.initialization import initialize
from maws_composer.models.text_tower import TextSettings
from maws_composer.stages.gradient_caching import cached_gradients, embed_whole
from maws_composer.stages.lit import LitStage
from tests.processes import run_ranks
from tests.text_towers import write_text_tower

BATCH, MICROBATCH, LENGTH = 8, 3, 12
STEP = Path(__file__).with_name("lit_step.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_tower(tmp_path_factory.mktemp("text"))


def build_stage(folder: Path | str, dropout: float = 0.0, **model) -> LitStage:
    text = TextSettings(name=str(folder), context_length=LENGTH, dropout=dropout)
    return LitStage("vit_micro", 24, text=text, embed_dim=16, run=SimpleNamespace(seed=5), **model)


def make_stage(folder: Path, dropout: float = 0.0, **model) -> LitStage:
    stage = build_stage(folder, dropout, **model)
    initialize(stage, seed=0)
    return stage.train()


def make_batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randint(0, 256, (BATCH, 3, 24, 24), generator=generator, dtype=torch.uint8),
        "input_ids": torch.randint(4, 60, (BATCH, LENGTH), generator=generator),
        "attention_mask": (torch.arange(LENGTH) < torch.arange(4, 4 + BATCH)[:, None]).long(),
        "position": torch.arange(100, 100 + BATCH),
        "epoch": torch.zeros(BATCH, dtype=torch.int64),
        "valid": torch.ones(BATCH, dtype=torch.bool),
    }


def gradients_of(stage: LitStage) -> dict[str, Tensor]:
    gradients = {name: parameter.grad for name, parameter in stage.named_parameters() if parameter.grad is not None}
    stage.zero_grad(set_to_none=True)
    return gradients


def in_two_passes(stage: LitStage, autocast: bool = False) -> tuple[float, list[tuple[Tensor, Tensor]]]:
    """As Composer works it off; returns the loss, and each pass's embeddings of texts and images."""
    (caching,) = stage.callbacks()
    precision = torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext()
    with precision:
        first, batch = embed_whole(stage, make_batch(), MICROBATCH, caching._embed_images)
    batch = {**batch, **cached_gradients(first, stage.of_rows)}
    total, second = 0.0, []
    for begin in range(0, BATCH, MICROBATCH):
        part = {name: values[begin : begin + MICROBATCH] for name, values in batch.items()}
        with precision:
            pairs = stage(part)
            loss = stage.loss(pairs, part) * (len(part["valid"]) / BATCH)
        loss.backward()
        total += loss.item()
        second.append(pairs)
    image, text = (torch.cat([getattr(pairs, which) for pairs in second]) for which in ("image", "text"))
    return total, [(first.image, image), (first.text, text)]


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("lock", [True, False])
def test_microbatches_give_the_gradients_of_the_whole_batch(folder: Path, loss: str, lock: bool) -> None:
    stage = make_stage(folder, loss=loss, lock_image_tower=lock)
    batch = make_batch()
    whole = stage.loss(stage(batch), batch)
    whole.backward()
    expected = gradients_of(stage)
    value, _ = in_two_passes(stage)
    assert value == pytest.approx(whole.item(), rel=1e-5)
    found = gradients_of(stage)
    assert set(found) == set(expected) == {name for name, p in stage.named_parameters() if p.requires_grad}
    assert any(name.startswith("clip.encoder.") for name in found) is not lock
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 1e-5 * gradient.norm() + 1e-7, name


@pytest.mark.parametrize(("autocast", "dropout"), [(False, 0.0), (True, 0.0), (False, 0.3)])
def test_both_passes_embed_with_the_same_bits(folder: Path, autocast: bool, dropout: float) -> None:
    stage = make_stage(folder, dropout)
    _, passes = in_two_passes(stage, autocast)
    for first, second in passes:
        assert first.dtype == torch.float32
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    "model",
    [
        {},
        pytest.param({"loss": "sigmoid", "lock_image_tower": False}, marks=pytest.mark.slow),
        pytest.param({"lock_image_projection": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_two_sharded_ranks_in_two_passes_step_as_one_in_one(folder: Path, model: dict) -> None:
    given = {"text": str(folder), "model": model}
    (alone,) = run_ranks(STEP, given, world_size=1)
    together = run_ranks(STEP, {**given, "microbatch": MICROBATCH, "checkpointing": "all"}, world_size=2)
    for rank in together:
        assert rank["same_bits"]
        assert rank["loss"] == pytest.approx(alone["loss"], rel=1e-5)
        assert rank["clamped"] == pytest.approx(math.log(100))  # of 9, which one rank has
        assert rank["norms"] == pytest.approx(alone["norms"], rel=1e-4, abs=1e-6)
    assert any("image_projection" in name for name in alone["norms"]) is not model.get("lock_image_projection", False)


def test_sharded_under_bf16_autocast_both_passes_have_the_same_bits(folder: Path) -> None:
    # parameters are gathered in fp32: of a bf16 one CPUs make no LayerNorm
    given = {"text": str(folder), "model": {}, "autocast": True, "microbatch": MICROBATCH}
    for rank in run_ranks(STEP, given, world_size=2):
        assert rank["same_bits"]


def test_the_locked_tower_sees_each_image_once(folder: Path) -> None:
    stage, seen = make_stage(folder), []
    stage.clip.encoder.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    in_two_passes(stage)
    assert seen == [3, 3, 2]
