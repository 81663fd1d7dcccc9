"""What the allocator gives out in a step that is computed; and, as a script, on each of several ranks."""

from __future__ import annotations

import json
import sys
import tempfile
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_leaves

from maws_composer.config.run import Run
from maws_composer.optim.build import build_optimizer
from maws_composer.parallel.leave import leave_process_group
from maws_composer.parallel.shard import shard
from maws_composer.stages.build import build_stage
from tests.step.miniature import load, make_batch


class Peak(NamedTuple):
    """Bytes: of weights, moments and the batch, which are there before; and what a step takes beyond them at most."""

    states: int
    step: int


def peak_of_a_step(run: Run, batch: int) -> Peak:
    """Of this rank, with so many images; there must be a process group."""
    model = build_stage(run)
    shard(model, run.speed, run.precision, run.seed, torch.device("cpu"))
    optimizer, images = build_optimizer(model, run), make_batch(run.stage, size=batch, side=run.model["image_size"])

    def step() -> None:
        outputs = model(images)
        model.loss(outputs, images).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # which makes the moments
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    most = max(accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())))
    held = [*model.parameters(), *tree_leaves([*optimizer.state.values()]), *tree_leaves(images)]
    storages = {_local(tensor).untyped_storage() for tensor in held if isinstance(tensor, torch.Tensor)}
    return Peak(sum(storage.nbytes() for storage in storages), most)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    local: torch.Tensor = getattr(tensor, "_local_tensor", tensor)
    return local


if __name__ == "__main__":
    stage, batch, given = json.loads(sys.argv[1])
    dist.init_process_group("gloo")
    with tempfile.TemporaryDirectory() as folder:
        peak = peak_of_a_step(load(stage, Path(folder), *given), batch)
    print(json.dumps(peak._asdict()))
    leave_process_group()
