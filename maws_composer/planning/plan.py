"""`maws-composer plan`: what a run will take, before anything is spent."""

from __future__ import annotations

from maws_composer.config.durations import samples
from maws_composer.config.run import Run
from maws_composer.parallel.degrees import sharding_degrees
from maws_composer.planning.gpus import GPUS
from maws_composer.planning.memory import MemoryEstimate, estimate_memory
from maws_composer.planning.workload import Workload
from maws_composer.planning.world_sizes import legal_world_sizes, say_world_sizes
from maws_composer.registry import lookup

# Of a GPU's memory, for `auto`: the estimate is arithmetic, and what does not fit costs more than one pass more (ours).
_USED = 0.8


def workload_of(run: Run) -> Workload:
    """What the run's stage asks of a GPU; the stage says so without being built."""
    return lookup("stage", run.stage).builder.workload(**run.model)


def columns_of(run: Run) -> tuple[str, ...]:
    """What the run's stage reads of a sample besides id and image; the stage says so without being built."""
    stage = lookup("stage", run.stage).builder
    return stage.reads(**run.model) if hasattr(stage, "reads") else stage.columns


def memory_of(run: Run, workload: Workload, world_size: int, microbatch: int) -> MemoryEstimate:
    """Memory per GPU of this run on `world_size` GPUs."""
    _, shard = sharding_degrees(world_size, run.speed.sharding.shard)
    return estimate_memory(workload, run.precision, microbatch, shard, run.speed.activation_checkpointing)


def microbatch_size(run: Run, workload: Workload, world_size: int, memory: float) -> int:
    """Samples that go through each of `world_size` GPUs at once.

    With `auto`, a share of 96 samples of which 64 would fit goes through as two times 48: a last, smaller pass would
    have compiled blocks compiled again. Where even one sample would not fit, it is 1.

    Args:
        run: a configuration whose batch can be split over them.
        workload: of its stage.
        world_size: number of GPUs.
        memory: of a GPU, in bytes.
    """
    share = run.global_train_batch_size // world_size
    if run.speed.device_train_microbatch_size != "auto":
        return min(run.speed.device_train_microbatch_size, share)
    sizes = (share // passes for passes in range(1, share + 1) if share % passes == 0)
    return next((size for size in sizes if memory_of(run, workload, world_size, size).total <= _USED * memory), 1)


def possible_world_sizes(
    run: Run, workload: Workload, gpus_per_node: int | None, up_to: int, memory: float
) -> list[int]:
    """Numbers of GPUs that the run may go on with: those that share its batch, and whose memory is enough.

    Args:
        run: a checked configuration.
        workload: of its stage.
        gpus_per_node: None: one node of any size.
        up_to: the largest of interest.
        memory: of a GPU, in bytes.
    """
    legal = legal_world_sizes(run.global_train_batch_size, run.data.train.num_canonical_nodes, gpus_per_node, up_to)
    microbatches = ((gpus, microbatch_size(run, workload, gpus, memory)) for gpus in legal)
    return [gpus for gpus, size in microbatches if memory_of(run, workload, gpus, size).total <= memory]


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
    share = run.global_train_batch_size // gpus
    microbatch = microbatch_size(run, workload, gpus, GPUS[gpu].memory)
    memory = memory_of(run, workload, gpus, microbatch)
    fits = "fits" if memory.total <= GPUS[gpu].memory else "DOES NOT FIT"
    replicate, shard = sharding_degrees(gpus, run.speed.sharding.shard)
    recomputed = workload.recomputed_flops(run.speed.activation_checkpointing, in_microbatches=microbatch < share)
    possible = possible_world_sizes(run, workload, gpus_per_node, 4 * gpus, GPUS[gpu].memory)
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
        ("microbatch", f"{microbatch} of the {share} images of a GPU: {_passes(share, microbatch)} a step"),
        ("sharding", f"{replicate} replicas x {shard} shards"),
        ("may be resumed on", say_world_sizes(possible, gpus_per_node)),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _passes(share: int, microbatch: int) -> str:
    passes = -(-share // microbatch)
    return "1 pass" if passes == 1 else f"{passes} passes"
