"""Every foreseeable failure, before GPU time is spent."""

from __future__ import annotations

import logging

import torch

from maws_composer.checkpoints.room import check_room
from maws_composer.config.load import LoadedRun
from maws_composer.config.plugins import build
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.config.run import Run
from maws_composer.data.preflight import check_data
from maws_composer.planning.plan import columns_of, memory_of, workload_of
from maws_composer.registry import lookup
from maws_composer.weights.beginning import check_beginning
from maws_composer.weights.embedded import check_embeddings

log = logging.getLogger(__name__)


def preflight(loaded: LoadedRun, world_size: int, nodes: int) -> None:
    """Look at model, memory, data and disk, in one process of a node, before processes are joined.

    Raises:
        ConfigError: with all problems at once.
    """
    columns = columns_of(loaded.run)
    data = check_data(loaded.run, world_size, nodes, columns)
    model = check_model(loaded.run, world_size)
    source = [] if model else check_beginning(loaded.run)
    problems = [*model, *source, *(data.problems or check_embeddings(loaded.run, columns))]
    if not model:
        problems += check_room(loaded.run, workload_of(loaded.run).parameters.trainable, nodes)
        problems += check_callbacks(loaded.run)
    if problems:
        raise ConfigError(loaded.locate(problems))
    log.info("%s", data.epoch)


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


def check_model(run: Run, world_size: int) -> list[Problem]:
    """Whether the model can be built, and a step fits into this machine's GPUs, if it has any."""
    try:
        memory = memory_of(run, workload_of(run), world_size).total
    except ValueError as error:
        return [Problem("model", str(error))]
    if not torch.cuda.is_available():
        return []
    available = torch.cuda.get_device_properties(0).total_memory
    if memory <= available:
        return []
    message = (
        f"a step needs about {memory / 1e9:.0f} GB per GPU on {world_size} GPUs, this one has {available / 1e9:.0f}; "
        "lower device_train_microbatch_size, raise sharding.shard, or set activation_checkpointing=all"
    )
    return [Problem("speed", message)]
