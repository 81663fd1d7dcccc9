"""The estimate of memory against what the allocator was asked for in a step."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from maws_composer.optim.build import build_optimizer
from maws_composer.parallel.shard import shard
from maws_composer.planning.plan import memory_of, workload_of
from maws_composer.stages.build import build_stage
from tests.step.miniature import BATCH, STAGES, load, make_batch

SIDE = 96  # 256 patches: there activations are most


def allocated_at_most(work: Callable[[], None]) -> int:
    """Bytes that the allocator has given out at most, beyond those that it had at the beginning."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("checkpointing", ["none", "all"])
@pytest.mark.parametrize("reshards", ["true", pytest.param("false", marks=pytest.mark.slow)])
def test_a_step_needs_what_was_planned(tmp_path: Path, stage: str, checkpointing: str, reshards: str) -> None:
    given = [f"model.image_size={SIDE}", f"speed.activation_checkpointing={checkpointing}"]
    given += [f"speed.sharding.reshard_after_forward={reshards}"]
    locked = ["model.lock_image_tower=false"] if stage == "lit" else []
    run = load(stage, tmp_path, *given, *locked)
    model = build_stage(run)
    shard(model, run.speed, run.precision, run.seed, torch.device("cpu"))
    optimizer, batch = build_optimizer(model, run), make_batch(stage, side=SIDE)

    def step() -> None:
        model.loss(model(batch), batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # which makes the moments
    planned = memory_of(run, workload_of(run), 1, BATCH)
    beyond_states = planned.gradients + planned.gathered + planned.activations
    # Fixed parts, which are rough, are a large share of so few blocks; and gradients come as activations go.
    needed = allocated_at_most(step)
    assert 0.9 * needed < beyond_states < 1.4 * needed
