"""`maws-composer plan`: what a run will take, before anything is spent."""

from __future__ import annotations

from maws_composer.config.durations import samples
from maws_composer.config.run import Run, device_microbatch_size
from maws_composer.parallel.degrees import sharding_degrees
from maws_composer.planning.gpus import GPUS
from maws_composer.planning.memory import MemoryEstimate, estimate_memory
from maws_composer.planning.workload import Workload
from maws_composer.planning.world_sizes import legal_world_sizes
from maws_composer.registry import lookup


def workload_of(run: Run) -> Workload:
    """What the run's stage asks of a GPU; the stage says so without being built."""
    return lookup("stage", run.stage).builder.workload(**run.model)


def columns_of(run: Run) -> tuple[str, ...]:
    """What the run's stage reads of a sample besides id and image; the stage says so without being built."""
    stage = lookup("stage", run.stage).builder
    return stage.reads(**run.model) if hasattr(stage, "reads") else stage.columns


def memory_of(run: Run, workload: Workload, world_size: int) -> MemoryEstimate:
    """Memory per GPU of this run on `world_size` GPUs."""
    microbatch = device_microbatch_size(run, world_size)
    _, shard = sharding_degrees(world_size, run.speed.sharding.shard)
    return estimate_memory(workload, run.precision, microbatch, shard, run.speed.activation_checkpointing)


def describe(run: Run, gpus: int, gpu: str, mfu: float, gpus_per_node: int = 8) -> str:
    """The plan as text.

    Args:
        run: a checked configuration.
        gpus: how many.
        gpu: a key of GPUS.
        mfu: share of the peak to reckon with.
        gpus_per_node: for the numbers of GPUs on which the run may go on.
    """
    workload = workload_of(run)
    total = samples(run.max_duration)
    seconds = total * workload.training_flops / (mfu * GPUS[gpu].peak[run.precision] * 1e12) / gpus
    memory = memory_of(run, workload, gpus)
    fits = "fits" if memory.total < GPUS[gpu].memory else "DOES NOT FIT"
    replicate, shard = sharding_degrees(gpus, run.speed.sharding.shard)
    in_microbatches = device_microbatch_size(run, gpus) * gpus < run.global_train_batch_size
    recomputed = workload.recomputed_flops(run.speed.activation_checkpointing, in_microbatches)
    legal = legal_world_sizes(
        run.global_train_batch_size, run.data.train.num_canonical_nodes, gpus_per_node, up_to=4 * gpus
    )
    rows = [
        ("parameters", f"{workload.parameters.total:,} ({workload.parameters.trainable:,} trained)"),
        (
            "FLOPs per image",
            f"{workload.training_flops / 1e9:,.1f} G, training (+ {recomputed / 1e9:,.1f} G recomputed)",
        ),
        ("steps", f"{-(-total // run.global_train_batch_size):,} of {run.global_train_batch_size:,} images"),
        ("FLOPs of the run", f"{total * workload.training_flops:.3g}"),
        (
            "time",
            f"{seconds / 86400:,.1f} days on {gpus} x {gpu} = {seconds * gpus / 3600:,.0f} GPU-hours "
            f"at {mfu:.0%} of {GPUS[gpu].peak[run.precision]:g} TFLOP/s ({run.precision})",
        ),
        ("images/s", f"{total / seconds:,.0f}, {total / seconds / gpus:,.0f} per GPU: what the loader has to deliver"),
        (
            "memory per GPU",
            f"{memory.total / 1e9:.1f} GB of {GPUS[gpu].memory / 1e9:.0f}: {fits} "
            f"(states {memory.states / 1e9:.1f}, gathered {memory.gathered / 1e9:.1f}, "
            f"activations {memory.activations / 1e9:.1f}, and what CUDA takes)",
        ),
        ("sharding", f"{replicate} replicas x {shard} shards"),
        ("may be resumed on", f"{', '.join(map(str, legal))} GPUs"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
