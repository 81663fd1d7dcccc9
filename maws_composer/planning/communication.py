"""What sharding sends over the links, in closed form."""

from __future__ import annotations

from typing import NamedTuple

from maws_composer.planning.blocks import BYTES_PER_GATHERED
from maws_composer.planning.step import BYTES_PER_GRADIENT
from maws_composer.planning.workload import Workload


class Communication(NamedTuple):
    """Bytes that reach each GPU in one step: from the GPUs of its node, and from those of others."""

    within_node: float
    between_nodes: float

    def seconds(self, link: float, network: float) -> float:
        """How long they take at these bytes/s, one after the other, if nothing is computed meanwhile."""
        return self.within_node / link + self.between_nodes / network


def communication_of(
    workload: Workload,
    precision: str,
    replicate: int,
    shard: int,
    gpus_per_node: int,
    passes: int,
    *,
    reshard_after_forward: bool = True,
) -> Communication:
    """FSDP2's traffic, by rings: each GPU receives (n - 1) / n of what n of them gather or scatter.

    In every pass, blocks are gathered for the forward pass, and again for the backward pass if they have one and were
    resharded; what lies outside of them once. Gradients are scattered in fp32, and their shards summed over the
    replicas. A ring that leaves the node is as fast as the network.

    Args:
        workload: the stage's model.
        precision: fp32, tf32 or amp_bf16.
        replicate, shard: as `parallel.degrees.sharding_degrees` has them; neighbors form a shard group.
        gpus_per_node: of each node.
        passes: microbatches of a step.
        reshard_after_forward: blocks are gathered for the backward pass, too.
    """
    trained = workload.parameters.trainable
    is_cached = workload.caches_gradients and passes > 1
    gathered = _gathered(workload, precision, shard, is_cached=is_cached, reshard_after_forward=reshard_after_forward)
    scattered = (trained + (shard - 1) * workload.surroundings.single_rows) * BYTES_PER_GRADIENT
    of_shards = passes * (shard - 1) / shard * (gathered + scattered)
    of_replicas = passes * 2 * (replicate - 1) / replicate * trained * BYTES_PER_GRADIENT / shard
    within_node = (of_shards if gpus_per_node % shard == 0 else 0.0) + (
        of_replicas if replicate * shard <= gpus_per_node else 0.0
    )
    return Communication(within_node, of_shards + of_replicas - within_node)


def _gathered(workload: Workload, precision: str, shard: int, *, is_cached: bool, reshard_after_forward: bool) -> float:
    """Bytes of weights that one pass gathers; gradient caching goes forward once more."""
    weight = BYTES_PER_GATHERED[precision]
    blocks = 0
    for stack in workload.stacks:
        times = 1 if stack.is_locked else 1 + reshard_after_forward + is_cached
        blocks += times * stack.depth * stack.parameters_per_block
    return blocks * weight + (1 + is_cached) * workload.gathered_outside_blocks(shard) * BYTES_PER_GATHERED["fp32"]
