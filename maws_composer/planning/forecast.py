"""What a run will take on given GPUs, before anything is spent."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import NamedTuple

from maws_composer.config.durations import samples
from maws_composer.config.run import Run
from maws_composer.parallel.degrees import sharding_degrees
from maws_composer.planning.communication import Communication, communication_of
from maws_composer.planning.gpus import GPUS, Gpu
from maws_composer.planning.memory import MemoryEstimate, checkpoint_bytes
from maws_composer.planning.plan import (
    kept_by_callbacks,
    memory_of,
    microbatch_size,
    passes_of,
    possible_world_sizes,
    with_resharding_decided,
    workload_of,
)
from maws_composer.planning.workload import Workload

_LARGEST_OF_INTEREST = 2**20  # images at once


class Price(NamedTuple):
    """Of a GPU-hour; `unit` is what the user calls it, "" for nothing."""

    amount: float
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where a run would be trained.

    Attributes:
        gpus: how many.
        kind: a key of GPUS.
        gpus_per_node: for the numbers of GPUs on which the run may go on, and for what crosses nodes.
        mfu: share of the peak to reckon with.
        network: bytes/s that reach each GPU from other nodes.
        price: of a GPU-hour. None: unknown.
        image_bytes: that are read for an image.
    """

    gpus: int
    kind: str = "h100"
    gpus_per_node: int = 8
    mfu: float = 0.4
    network: float = 50e9
    price: Price | None = None
    image_bytes: float = 66e3

    @property
    def gpu(self) -> Gpu:
        return GPUS[self.kind]

    @property
    def nodes(self) -> int:
        return -(-self.gpus // self.gpus_per_node)


@dataclass(frozen=True)
class Forecast:
    """A run on a cluster, in numbers: seconds, bytes, FLOPs.

    Attributes:
        run, cluster, workload: what was asked; the run knows whether it reshards after the forward pass.
        microbatch: images that go through a GPU at once.
        largest_microbatch: that a GPU has memory for, whatever the batch; 0: not even one.
        replicate, shard: the world's two factors.
        memory: of a GPU.
        communication: of a step.
        possible: numbers of GPUs on which the run may go on.
    """

    run: Run
    cluster: Cluster
    workload: Workload
    microbatch: int
    largest_microbatch: int
    replicate: int
    shard: int
    memory: MemoryEstimate
    communication: Communication
    possible: list[int]

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.cluster.gpu.memory

    @property
    def share(self) -> int:
        """Images of a GPU in each step."""
        return self.run.global_train_batch_size // self.cluster.gpus

    @property
    def passes(self) -> int:
        """Microbatches of a step."""
        return passes_of(self.run, self.cluster.gpus, self.microbatch)

    @property
    def images(self) -> int:
        return samples(self.run.max_duration)

    @property
    def steps(self) -> int:
        return -(-self.images // self.run.global_train_batch_size)

    @property
    def flops(self) -> int:
        """Of the run, without what is computed again."""
        return self.images * self.workload.training_flops

    @property
    def recomputed_flops(self) -> int:
        """For each image, by activation checkpointing and gradient caching."""
        checkpointing = self.run.speed.activation_checkpointing
        return self.workload.recomputed_flops(checkpointing, in_microbatches=self.passes > 1)

    @property
    def seconds(self) -> float:
        """On training: `mfu` is of the FLOPs without recomputation."""
        cluster = self.cluster
        return self.flops / (cluster.mfu * cluster.gpu.peak[self.run.precision] * 1e12) / cluster.gpus

    @property
    def gpu_hours(self) -> float:
        return self.seconds * self.cluster.gpus / 3600

    @property
    def images_per_second(self) -> float:
        """What the loaders of all GPUs together have to deliver."""
        return self.images / self.seconds

    @property
    def communication_seconds(self) -> float:
        """Of a step, if nothing were computed meanwhile."""
        return self.communication.seconds(self.cluster.gpu.link, self.cluster.network)

    @property
    def checkpoint(self) -> int:
        return checkpoint_bytes(self.workload.parameters.trainable, kept_by_callbacks(self.run))


def forecast(run: Run, cluster: Cluster) -> Forecast:
    """What the run will take there.

    Args:
        run: a checked configuration, whose batch can be split over the GPUs.
        cluster: where.
    """
    workload, memory = workload_of(run), cluster.gpu.memory
    microbatch = microbatch_size(run, workload, cluster.gpus, memory)
    decided = with_resharding_decided(run, workload, cluster.gpus, memory)
    replicate, shard = sharding_degrees(cluster.gpus, run.speed.sharding.shard)
    return Forecast(
        run=decided,
        cluster=cluster,
        workload=workload,
        microbatch=microbatch,
        largest_microbatch=_largest_microbatch(run, workload, cluster),
        replicate=replicate,
        shard=shard,
        memory=memory_of(decided, workload, cluster.gpus, microbatch),
        communication=communication_of(
            workload,
            run.precision,
            replicate,
            shard,
            cluster.gpus_per_node,
            passes=passes_of(run, cluster.gpus, microbatch),
            reshard_after_forward=decided.speed.sharding.reshards,
        ),
        possible=possible_world_sizes(run, workload, cluster.gpus_per_node, 4 * cluster.gpus, memory),
    )


def _largest_microbatch(run: Run, workload: Workload, cluster: Cluster) -> int:
    def needed(size: int) -> float:
        return memory_of(run, workload, cluster.gpus, size).total

    return bisect_right(range(1, _LARGEST_OF_INTEREST), cluster.gpu.memory, key=needed)
