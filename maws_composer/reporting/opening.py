"""The first lines of a run: in plain words what is trained, on what, from where on, and where it goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from composer.models import ComposerModel
from composer.utils import dist

from maws_composer.checkpoints.resume import ResumePoint
from maws_composer.config.durations import samples
from maws_composer.config.run import Run
from maws_composer.data.dataset import SampleDataset
from maws_composer.data.loader_processes import loader_processes, usable_cores
from maws_composer.data.order import TrainOrder
from maws_composer.data.own_samples import OwnSamples
from maws_composer.data.preflight import report_epoch, report_own_epoch
from maws_composer.models.attention import chosen_kernels
from maws_composer.parallel.degrees import sharding_degrees
from maws_composer.parallel.precision import say_devices
from maws_composer.parallel.settings import Sharding, Speed
from maws_composer.planning.microbatch import memory_here
from maws_composer.planning.plan import memory_of, possible_world_sizes, workload_of
from maws_composer.planning.world_sizes import say_world_sizes
from maws_composer.reporting.numbers import count

_USUAL = ("adamw", "warmup_then_decay")


def opening(
    run: Run,
    stage: ComposerModel,
    data: SampleDataset | OwnSamples,
    microbatch: int,
    speed: Speed,
    resume_from: ResumePoint | None,
) -> str:
    """The lines, for the log of rank 0.

    Args:
        run: what was asked for.
        stage: sharded.
        data: what it is trained on.
        microbatch: samples that go through a GPU at once.
        speed: the run's, in which resharding is decided.
        resume_from: the checkpoint that will be loaded.
    """
    lines = [
        f"training: {_what(run)}",
        f"on: {_machines()}; {_precision(run)}",
        f"sharding: {_sharding(speed.sharding)}",
        f"a step: {_step(replace(run, speed=speed), microbatch)}",
        *(f"by: {line}" for line in _chosen(run)),
        *(kernel.log_line for kernel in chosen_kernels(stage)),
        f"blocks: {_blocks(run.speed)}",
        *(f"data: {line}" for line in _data(run, data)),
        f"read by: {_readers(run)}",
        *(f"evaluated on: {line}" for line in _evaluation(run)),
        f"length: {_length(run, data)}",
        f"begins: {_beginning(run, resume_from)}",
        f"writes: {_writes(run)}",
        f"may be resumed on: {_world_sizes(run)}",
    ]
    return "\n  ".join([run.run_name, *lines])


def _what(run: Run) -> str:
    parameters = workload_of(run).parameters
    model = run.model
    known = [str(model[name]) for name in ("size",) if name in model]
    known += [f"{model['image_size']} px"] if "image_size" in model else []
    known += [f"text tower {model['text'].name}"] if "text" in model else []
    trained = f"{parameters.total:,} parameters, {parameters.trainable:,} of them trained"
    return f"{', '.join([run.stage, *known])}; {trained}"


def _machines() -> str:
    world_size, here = dist.get_world_size(), dist.get_local_world_size()
    nodes = "1 node" if world_size == here else f"{world_size // here} nodes"
    if torch.cuda.is_available():
        return f"{world_size} x {torch.cuda.get_device_name()}, {nodes}"
    return f"{say_devices(world_size)}, {nodes}, no GPU"


def _precision(run: Run) -> str:
    return f"{run.precision}, deterministic kernels" if run.deterministic else run.precision


def _sharding(sharding: Sharding) -> str:
    world_size = dist.get_world_size()
    replicas, shards = sharding_degrees(world_size, sharding.shard)
    return f"{say_devices(world_size)} = {count(replicas, 'replica')} x {count(shards, 'shard')}; {sharding.log_line}"


def _step(run: Run, microbatch: int) -> str:
    world_size = dist.get_world_size()
    share = run.global_train_batch_size // world_size
    needed = memory_of(run, workload_of(run), world_size, microbatch).total
    return (
        f"{run.global_train_batch_size:,} samples, {share:,} on each {_device()} in microbatches of {microbatch:,}; "
        f"by the estimate it needs {needed / 1e9:.1f} GB of {memory_here() / 1e9:.0f}"
    )


def _chosen(run: Run) -> Iterator[str]:
    """What makes the steps, where it is not what a run has that says nothing of it."""
    named = {
        "optimizer": run.optimizer.name, "schedule": run.schedule.name,
        "transform": run.data.train.transform and run.data.train.transform.name,
    }  # fmt: skip
    chosen = [f"{kind} {name}" for kind, name in named.items() if name not in (None, *_USUAL)]
    chosen += [f"algorithm {name}" for name in run.algorithms]
    if chosen:
        yield ", ".join(chosen)


def _blocks(speed: Speed) -> str:
    which = speed.activation_checkpointing
    again = f"of one block in {which}" if isinstance(which, int) else which
    compiled = "compiled" if speed.compile else "not compiled"
    return f"{compiled}; activations computed again in the backward pass: {again}"


def _data(run: Run, data: SampleDataset | OwnSamples) -> Iterator[str]:
    order = data.order
    assert isinstance(order, TrainOrder)
    if isinstance(data, OwnSamples):
        yield str(data.own)
        yield str(report_own_epoch(order, data.own))
        return
    for stream in data.streams:
        yield stream.source.address
    yield str(report_epoch(order, [stream.index for stream in data.streams], run.data.train))


def _readers(run: Run) -> str:
    here = dist.get_local_world_size()
    processes = loader_processes(run.speed, here)
    if not processes:
        return "this process itself"
    cores = f"{usable_cores()} cores for {here} GPUs" if torch.cuda.is_available() else f"{usable_cores()} cores"
    return f"{processes} processes of each rank ({cores}), {run.speed.prefetch_factor} batches ahead each"


def _evaluation(run: Run) -> Iterator[str]:
    if run.data.eval is not None:
        dataset = run.data.eval.dataset
        source = run.data.eval.remote or run.data.eval.local if dataset is None else f"the dataset {dataset.name}"
        yield f"{source}, every {run.eval_interval}"


def _length(run: Run, data: SampleDataset | OwnSamples) -> str:
    total = samples(run.max_duration)
    steps = -(-total // run.global_train_batch_size)
    return f"{total:,} samples = {steps:,} steps = {total / (data.order.size * data.order.crops):,.4g} epochs"


def _beginning(run: Run, resume_from: ResumePoint | None) -> str:
    if resume_from is not None:
        return f"goes on from {resume_from.folder.name}, at sample {resume_from.samples:,}"
    weights = f"weights of {run.initialize_from}" if run.initialize_from else f"weights drawn from seed {run.seed}"
    return f"at sample 0, with {weights}"


def _writes(run: Run) -> str:
    forever = f", every {run.save_keep_every} for good" if run.save_keep_every else ""
    kept = f"the newest {run.save_num_checkpoints_to_keep} are kept{forever}"
    beside = [f"loggers: {', '.join(run.loggers)}"] if run.loggers else []
    return "; ".join([run.save_folder, f"a checkpoint every {run.save_interval}, {kept}", *beside])


def _world_sizes(run: Run) -> str:
    world_size, here = dist.get_world_size(), dist.get_local_world_size()
    per_node = here if world_size > here else torch.cuda.device_count() or None
    memory = memory_here() if torch.cuda.is_available() else float("inf")
    possible = possible_world_sizes(run, workload_of(run), per_node, 4 * world_size, memory)
    return say_world_sizes(possible, per_node, _device(2))


def _device(number: int = 1) -> str:
    return say_devices(number).partition(" ")[2]
