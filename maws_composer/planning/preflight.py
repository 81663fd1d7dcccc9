"""Every foreseeable failure, before GPU time is spent."""

from __future__ import annotations

from pathlib import Path

import torch
from composer.utils import dist

from maws_composer.checkpoints.room import check_room
from maws_composer.config.build import build
from maws_composer.config.load import LoadedRun
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.config.run import Run
from maws_composer.data.index import missing_folder
from maws_composer.data.preflight import check_data
from maws_composer.data.scratch import free_abandoned
from maws_composer.data.sources import evaluation_shards, training_shards
from maws_composer.disks import check_writable
from maws_composer.outages import OutageError, insist
from maws_composer.planning.microbatch import memory_here
from maws_composer.planning.plan import columns_of, memory_of, microbatch_size, workload_of
from maws_composer.registry import lookup
from maws_composer.resilience import notice
from maws_composer.weights.beginning import check_beginning
from maws_composer.weights.embedded import check_embeddings


def preflight(loaded: LoadedRun, world_size: int, nodes: int) -> None:
    """Look at nodes, model, memory, data and disk, in one process of a node, before processes are joined.

    Raises:
        ConfigError: with all problems at once.
        StorageError: object storage was away for longer than `storage_patience`, or until a notice came.
    """
    free_abandoned(loaded.run.speed.scratch_folder, loaded.run.save_folder)
    insist(
        lambda: _look(loaded, world_size, nodes),
        "looking at the data and at save_folder",
        loaded.run.storage_patience,
        stop=None if notice.given.is_set() else notice.given,  # one that came before is heeded once there is a run
        unless=lambda error: not isinstance(error, OutageError),
    )


def on_disk(run: Run) -> list[Problem]:
    """What is wrong with this machine's folders, whatever other keys say: of a run that has mistakes elsewhere."""
    shards = training_shards(run.data.train)
    shards += evaluation_shards(run.data.eval) if run.data.eval is not None else []
    problems = [missing_folder(each) for each in shards if each.address and not each.is_there]
    return problems if "://" in run.save_folder else [*problems, *check_writable("save_folder", Path(run.save_folder))]


def _look(loaded: LoadedRun, world_size: int, nodes: int) -> None:
    if without := check_image_size(loaded.run):
        raise ConfigError(loaded.locate(without))
    columns = columns_of(loaded.run)
    data = check_data(loaded.run, world_size, nodes, columns)
    model = check_model(loaded.run, world_size, _memory())
    source = [] if model else check_beginning(loaded.run)
    problems = [*check_nodes(world_size), *model, *source, *(data or check_embeddings(loaded.run, columns))]
    if not model:
        problems += check_room(loaded.run, workload_of(loaded.run).parameters.trainable, world_size, nodes)
        problems += check_callbacks(loaded.run)
    if problems:
        raise ConfigError(loaded.locate(list(dict.fromkeys(problems))))  # data and checkpoints may share a disk


def check_image_size(run: Run) -> list[Problem]:
    """Whether the stage says how large its images are: loaders, evaluations and the estimate of memory ask."""
    if "image_size" in run.model:
        return []
    message = f"{run.stage} takes no image_size, to which its images are cropped; add `image_size: int` to its __init__"
    return [Problem("stage", message)]


def _memory() -> float:
    return memory_here() if torch.cuda.is_available() else float("inf")


def check_nodes(world_size: int) -> list[Problem]:
    """Whether all nodes have equally many processes, which the order of the data takes for granted."""
    here = dist.get_local_world_size()
    if world_size % here == 0:
        return []
    message = f"{world_size} processes, {here} of them on this node; start equally many on every node"
    return [Problem("nodes", message, where="launcher")]


def check_callbacks(run: Run) -> list[Problem]:
    """What callbacks foresee that have a method `preflight`; the others are not made before training begins."""
    problems: list[Problem] = []
    for name, arguments in run.callbacks.items():
        entry = lookup("callback", name)
        if hasattr(entry.builder, "preflight"):
            try:
                problems += build(entry, arguments, run).preflight()
            except ConfigError as error:
                problems += error.problems
    return problems


def check_model(run: Run, world_size: int, memory: float) -> list[Problem]:
    """Whether the model can be built, and a step fits into GPUs of `memory` bytes."""
    try:
        workload = workload_of(run)
    except ValueError as error:
        return [Problem("model", str(error))]
    microbatch = microbatch_size(run, workload, world_size, memory)
    needed = memory_of(run, workload, world_size, microbatch).total
    if needed <= memory:
        return []
    smaller = (
        "" if run.speed.device_train_microbatch_size == "auto" else "set speed.device_train_microbatch_size=auto, "
    )
    smaller += "" if run.speed.sharding.reshards else "set speed.sharding.reshard_after_forward=auto, "
    message = (
        f"a step needs about {needed / 1e9:.0f} GB per GPU on {world_size} GPUs in microbatches of {microbatch}, "
        f"this kind has {memory / 1e9:.0f}; {smaller}raise speed.sharding.shard, "
        "or set speed.activation_checkpointing=all"
    )
    return [Problem("speed", message)]
