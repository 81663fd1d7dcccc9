"""Blocks are compiled while a run warms up, and never again."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from tests.step.miniature import BATCH, STAGES, build_trainer, load, make_batch


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[CompileCounterWithBackend]:
    """Captures what inductor would, generates no code, and counts the graphs."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(request.param)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):  # or blocks would run eagerly from then on
        yield counter


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("compiler", "checkpointing"),
    [("eager", "none"), pytest.param("aot_eager", "2", marks=pytest.mark.slow)],
    indirect=["compiler"],
)
@pytest.mark.parametrize("microbatch", [3, pytest.param(7, marks=pytest.mark.slow)])  # the last one: of 2 images, of 1
def test_nothing_is_compiled_after_the_first_evaluation(
    tmp_path: Path, compiler: CompileCounterWithBackend, stage: str, checkpointing: str, microbatch: int
) -> None:
    speed = {"compile": "true", "device_train_microbatch_size": microbatch, "activation_checkpointing": checkpointing}
    run = load(stage, tmp_path, *(f"speed.{key}={value}" for key, value in speed.items()))
    batches = [make_batch(stage, number) for number in range(6)]
    trainer = build_trainer(run, tmp_path, batches, make_batch(stage, 99, BATCH - 1))
    trainer.fit(duration="2ba")
    graphs = compiler.frame_count
    trainer.fit(duration="4ba")
    trainer.close()
    assert compiler.frame_count == graphs
    assert graphs > 1  # with gradients, and without
