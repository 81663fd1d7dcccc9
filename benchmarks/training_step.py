"""Images/s, MFU and peak memory of a recipe's training step on one GPU, and what its speed settings are worth.

    python -m benchmarks.training_step yamls/mae_vitb.yaml [key=value ...]
        [--variant "speed.attention=math" --variant "speed.compile=false"] [--depth 8] [--steps 20]

Method: the recipe as it stands, and each variant, in a process of its own, in turn, three times; medians are compared.
A process builds the stage, shards it over one GPU as train.py does, and makes the steps of training (forward,
backward, clipping, AdamW) on one generated batch that is on the device already: what is measured is the step,
not the loader. Warm-up steps, and compiling, are left out. MFU counts three forward passes against the nominal dense
peak of the precision; recomputed activations do not count. `--depth` cuts the encoder, for sizes that do not fit.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks.memory import peak_memory

CONFIG = "yamls/mae_vitb.yaml"


def measure(options: argparse.Namespace, variant: str) -> dict[str, Any]:
    """Figures of one variant, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.training_step", options.config, *options.overrides, *variant.split()]
    command += ["--only", "--steps", str(options.steps), "--warm-up", str(options.warm_up)]
    command += ["--depth", str(options.depth)] if options.depth else []
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{variant or 'the recipe'} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run_once(options: argparse.Namespace) -> None:
    """Make the steps, and print the figures as JSON."""
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1", NODE_RANK="0")

    from composer.utils import dist

    from maws_composer.config.plugins import load_with_ours
    from maws_composer.optim.build import build_optimizer
    from maws_composer.parallel.leave import leave_process_group
    from maws_composer.parallel.precision import build_device, torch_device
    from maws_composer.parallel.shard import shard
    from maws_composer.planning.microbatch import agree_on_memory
    from maws_composer.planning.plan import workload_of
    from maws_composer.stages.build import build_stage

    run = load_with_ours(options.config, ["data.train.local=generated", *options.overrides]).run
    if options.depth:
        run = dataclasses.replace(run, model={**run.model, "size": _cut(run.model["size"], options.depth)})
    dist.initialize_dist(build_device(run.precision), timeout=300)
    device, (batch_size, speed) = torch_device(), agree_on_memory(run)
    stage = build_stage(run)
    shard(stage, speed, run.precision, run.seed, device)
    optimizer = build_optimizer(stage, run)
    batch = generated(run, batch_size, device)
    for _ in range(options.warm_up):
        step(stage, optimizer, batch, run)
    _wait(device)
    began = time.perf_counter()
    for _ in range(options.steps):
        step(stage, optimizer, batch, run)
    _wait(device)
    seconds = time.perf_counter() - began
    leave_process_group()

    images = options.steps * batch_size / seconds
    flops = images * workload_of(run).training_flops
    print(
        json.dumps({"batch": batch_size, "images/s": images, "TFLOP/s": flops / 1e12, **_machine(device, run, flops)})
    )


def _cut(size: str, depth: int) -> str:
    from maws_composer.registry import lookup, register_size

    name = f"{size}_depth{depth}"
    register_size(name)(dataclasses.replace(lookup("size", size).builder, depth=depth))
    return name


def generated(run: Any, size: int, device: Any) -> dict[str, Any]:
    """What the stage reads: images or their embeddings; two labels of each; with captions, the tokens of long ones."""
    import torch

    from maws_composer.planning.plan import columns_of
    from maws_composer.registry import lookup

    generator, columns = torch.Generator().manual_seed(0), columns_of(run)
    numbers = torch.arange(size)
    batch = {"position": numbers, "epoch": torch.zeros_like(numbers), "valid": numbers >= 0}
    if "image_embedding" in columns:
        width = lookup("size", run.model["size"]).builder.width
        batch["image_embedding"] = torch.randn(size, width, generator=generator)
    else:
        side = run.model["image_size"]
        batch["image"] = torch.randint(0, 256, (size, 3, side, side), dtype=torch.uint8, generator=generator)
    if "labels" in columns:
        batch["labels"] = torch.randint(0, run.model["num_classes"], (size, 2), generator=generator)
    if "caption" in columns:
        length = run.model["text"].context_length
        batch["input_ids"] = torch.randint(4, 1000, (size, length), generator=generator)  # in any vocabulary
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    return {name: values.to(device) for name, values in batch.items()}


def step(stage: Any, optimizer: Any, batch: dict[str, Any], run: Any) -> Any:
    """Forward, backward, clipping and AdamW; returns the loss."""
    import torch
    from composer.core.precision import Precision, get_precision_context

    from maws_composer.parallel.precision import COMPOSER_PRECISION

    with get_precision_context(Precision(COMPOSER_PRECISION[run.precision])):
        loss = stage.loss(stage(batch), batch)
    loss.backward()
    if run.gradient_clip:
        torch.nn.utils.clip_grad_norm_(stage.parameters(), run.gradient_clip)
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()


def _wait(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()


def _machine(device: Any, run: Any, flops: float) -> dict[str, Any]:
    """Name, peak memory and, where the GPU's peak is known, MFU."""
    import torch

    from maws_composer.planning.gpus import peak_flops

    if device.type != "cuda":
        return {"device": "CPU", "peak GB": peak_memory() / 1e9, "MFU": None}
    name = torch.cuda.get_device_name()
    peak = peak_flops(name, run.precision)
    mfu = flops / peak if peak else None
    return {"device": name, "peak GB": torch.cuda.max_memory_allocated() / 1e9, "MFU": mfu}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default=CONFIG)
    parser.add_argument("overrides", nargs="*", help="key=value, as for train.py")
    parser.add_argument("--variant", action="append", default=[], help="further key=value, compared with the recipe")
    parser.add_argument("--depth", type=int, help="blocks of the encoder, instead of the recipe's")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args(arguments)
    if options.only:
        run_once(options)
        return
    variants = ["", *options.variant]
    rounds = [{variant: measure(options, variant) for variant in variants} for _ in range(options.rounds)]
    base = statistics.median(each[""]["images/s"] for each in rounds)
    first = rounds[0][""]
    print(f"{options.config} {' '.join(options.overrides)} on {first['device']}, {first['batch']} images per step")
    for variant in variants:
        pace = statistics.median(each[variant]["images/s"] for each in rounds)
        figures = rounds[0][variant]
        mfu = f"{figures['MFU'] * pace / figures['images/s']:.1%} MFU" if figures["MFU"] else "MFU unknown"
        memory = max(each[variant]["peak GB"] for each in rounds)
        print(f"{variant or 'as it stands':<32} {pace:10,.1f} images/s ({pace / base:.2f} x)  {mfu}  {memory:.1f} GB")


if __name__ == "__main__":
    main()
