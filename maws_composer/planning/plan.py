"""A run's arithmetic: its workload, memory, microbatch, and on how many GPUs it may go on."""

from __future__ import annotations

from dataclasses import replace

from maws_composer.config.run import Run
from maws_composer.parallel.degrees import sharding_degrees
from maws_composer.planning.memory import MemoryEstimate, estimate_memory
from maws_composer.planning.workload import Workload
from maws_composer.planning.world_sizes import legal_world_sizes
from maws_composer.registry import lookup

# Of a GPU's memory, for `auto`: the estimate is arithmetic, and what does not fit costs more than one pass more, or
# gathering twice (ours).
_USED = 0.8


def workload_of(run: Run) -> Workload:
    """What the run's stage asks of a GPU; the stage says so without being built."""
    return lookup("stage", run.stage).builder.workload(**run.model)


def columns_of(run: Run) -> tuple[str, ...]:
    """What the run's stage reads of a sample besides id and image; the stage says so without being built."""
    stage = lookup("stage", run.stage).builder
    return stage.reads(**run.model) if hasattr(stage, "reads") else stage.columns


def kept_by_callbacks(run: Run) -> int:
    """Bytes per trained parameter that callbacks keep: on the GPUs of a shard, and in each checkpoint.

    A callback's class says so in an attribute `bytes_per_parameter`.
    """
    return sum(getattr(lookup("callback", name).builder, "bytes_per_parameter", 0) for name in run.callbacks)


def memory_of(run: Run, workload: Workload, world_size: int, microbatch: int) -> MemoryEstimate:
    """Memory per GPU of this run on `world_size` GPUs; with `reshard_after_forward: auto`, the least."""
    replicate, shard = sharding_degrees(world_size, run.speed.sharding.shard)
    return estimate_memory(
        workload,
        run.precision,
        microbatch,
        shard,
        run.speed.activation_checkpointing,
        kept_by_callbacks(run),
        passes=passes_of(run, world_size, microbatch),
        replicate=replicate,
        reshard_after_forward=run.speed.sharding.reshards,
    )


def passes_of(run: Run, world_size: int, microbatch: int) -> int:
    """Microbatches of a step."""
    return -(-(run.global_train_batch_size // world_size) // microbatch)


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


def with_resharding_decided(run: Run, workload: Workload, world_size: int, memory: float) -> Run:
    """The run, which knows whether blocks are resharded after the forward pass.

    With `auto`, what was gathered stays where that fits beside the microbatch that is taken anyway, which so never
    depends on it.

    Args:
        run: a configuration whose batch can be split over them.
        workload: of its stage.
        world_size: number of GPUs.
        memory: of a GPU, in bytes.
    """
    if run.speed.sharding.reshard_after_forward != "auto":
        return run
    kept, resharded = (
        replace(run, speed=replace(run.speed, sharding=replace(run.speed.sharding, reshard_after_forward=reshards)))
        for reshards in (False, True)
    )
    size = microbatch_size(run, workload, world_size, memory)
    return kept if memory_of(kept, workload, world_size, size).total <= _USED * memory else resharded


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
    legal = legal_world_sizes(run.images_per_batch, run.data.train.num_canonical_nodes, gpus_per_node, up_to)
    microbatches = ((gpus, microbatch_size(run, workload, gpus, memory)) for gpus in legal)
    return [gpus for gpus, size in microbatches if memory_of(run, workload, gpus, size).total <= memory]
