"""What sharding costs on a CPU: the processor's time of a step on plain modules, and on one and two processes.

    python -m benchmarks.sharding [--batch 16] [--steps 4] [--rounds 2]

Method: MAE of ViT-Ti/16 at 224, fp32, the same global batch in each form:

- plain: one process, no FSDP2.
- shard 1: one process, as train.py has it: FSDP2 gathers blocks from the one rank, and scatters their gradients to it.
- shard 2: two processes, each with half of the parameters.
- replicate 2: two processes, each with all of them; gradients are averaged, as DDP does.

Kept: blocks stay gathered from the forward to the backward pass (`speed.sharding.reshard_after_forward=false`); else
they are gathered twice.

Each form is a start of its own processes, in turn. Compared are medians over the rounds of the processor's seconds of a
step, summed over processes. On two cores or more, two processes take about half of them on the clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

from benchmarks.ranks import run_ranks

FORMS = {  # ranks, shards, whether blocks are resharded after the forward pass
    "plain": (1, None, True),
    "shard 1": (1, 1, True),
    "shard 1, kept": (1, 1, False),
    "shard 2": (2, 2, True),
    "shard 2, kept": (2, 2, False),
    "replicate 2": (2, 1, True),
    "replicate 2, kept": (2, 1, False),
}


def be_a_rank(form: str, options: argparse.Namespace) -> None:
    """Make the steps; the first rank prints the processor's seconds of one, of all ranks together."""
    import torch
    import torch.distributed as dist

    from benchmarks.training_step import generated, step
    from maws_composer.config.plugins import load_with_ours
    from maws_composer.models.attention import set_attention_kernel
    from maws_composer.models.sizes import ViTSize
    from maws_composer.optim.build import build_optimizer
    from maws_composer.parallel.leave import leave_process_group
    from maws_composer.parallel.materialize import materialize
    from maws_composer.parallel.precision import capability
    from maws_composer.parallel.shard import shard
    from maws_composer.registry import register_size
    from maws_composer.stages.build import build_stage

    ranks, shards, reshards = FORMS[form]
    register_size("vit_ti16")(ViTSize(width=192, depth=12, heads=3, patch_size=16))
    dist.init_process_group("gloo")
    model = ["model.size=vit_ti16", "model.decoder.width=192", "model.decoder.depth=4", "model.decoder.heads=6"]
    speed = ["precision=fp32", "speed.compile=false", f"speed.sharding.shard={shards or 1}"]
    speed += [f"speed.sharding.reshard_after_forward={str(reshards).lower()}"]
    run = load_with_ours("yamls/mae_vitb.yaml", ["data.train.local=generated", *model, *speed]).run
    stage, cpu = build_stage(run), torch.device("cpu")
    set_attention_kernel(stage, "auto", "cpu", torch.float32, capability())  # also where a GPU is
    if shards:
        shard(stage, run.speed, run.precision, run.seed, cpu)
    else:
        materialize(stage, cpu, run.seed)
    optimizer, batch = build_optimizer(stage, run), generated(run, options.batch // ranks, "cpu")
    step(stage, optimizer, batch, run)
    dist.barrier()
    began = time.process_time()
    for _ in range(options.steps):
        step(stage, optimizer, batch, run)
    seconds = torch.tensor((time.process_time() - began) / options.steps)
    dist.all_reduce(seconds)
    print(json.dumps({"seconds": seconds.item()}), flush=True)
    leave_process_group()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--rank", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.rank:
        be_a_rank(options.form, options)
        return
    given = ["--batch", f"{options.batch}", "--steps", f"{options.steps}"]
    rounds: list[dict[str, Any]] = [
        {
            form: run_ranks("benchmarks.sharding", [*given, "--form", form], ranks)["seconds"]
            for form, (ranks, _, _) in FORMS.items()
        }
        for _ in range(options.rounds)
    ]
    for form in FORMS:
        seconds = statistics.median(each[form] for each in rounds)
        ratio = statistics.median(each[form] / each["plain"] for each in rounds)
        print(f"{form:<17} {seconds * 1e3:8.0f} ms of the processor ({ratio:.2f} of plain)")


if __name__ == "__main__":
    main()
