"""Settings of what changes only speed and memory, never results."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

Positive = Annotated[int, Field(gt=0)]
Attention = Literal["auto", "flash_attn", "sdpa_flash", "sdpa_cudnn", "sdpa_efficient", "math"]


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """How weights, gradients and moments are spread.

    Args:
        shard: over how many GPUs at most; the largest divisor of the world size not above it is used, and what is left
            replicates. Null: over all of them.
        reshard_after_forward: gather a block's weights for the forward pass, drop them, and gather them again for the
            backward pass. `false`: keep them between the two, for the memory of all blocks' weights. `auto`: keep them
            where that fits beside the microbatch.
    """

    shard: Positive | None = None
    reshard_after_forward: Literal["auto"] | bool = "auto"

    @property
    def reshards(self) -> bool:
        """After the forward pass; with `auto` too, before `planning.plan.with_resharding_decided`."""
        return self.reshard_after_forward is not False

    @property
    def log_line(self) -> str:
        again = "are gathered again" if self.reshards else "stay gathered"
        return f"blocks {again} for the backward pass"


@dataclass(frozen=True, kw_only=True)
class ForwardSpeed:
    """Nothing here changes results, with training or without.

    Args:
        device_eval_batch_size: samples of one evaluation batch on one GPU.
        workers: loader processes per GPU; `auto`: its share of the node's cores.
        prefetch_factor: batches that each of them works ahead.
        predownload: images whose shards each of them fetches ahead. Null: eight batches.
        loader_timeout: seconds without a batch after which training stops, naming the shard; 0: no limit.
        attention: kernel of the attention; `auto` takes the fastest that the precision and the GPU allow.
        scratch_folder: local disk for cached shards, and for checkpoints on their way to object storage.
    """

    device_eval_batch_size: Positive = 64
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    prefetch_factor: Positive = 2
    predownload: Annotated[int, Field(ge=0)] | None = None
    loader_timeout: Annotated[int, Field(ge=0)] = 300
    attention: Attention = "auto"
    scratch_folder: str = "/tmp/maws_composer"


@dataclass(frozen=True, kw_only=True)
class Speed(ForwardSpeed):
    """What changes only the speed of training. See `ForwardSpeed` for the rest.

    Args:
        device_train_microbatch_size: samples of one forward and backward pass on one GPU, at most. `auto`: the fewest
            equal passes that the estimate of memory allows on this kind of GPU, and this number of them.
        compile: compile each block.
        activation_checkpointing: compute activations again in the backward pass: in none, in all, or in every n-th
            block.
        sharding: how weights are spread over GPUs, and for how long they are gathered.
    """

    device_train_microbatch_size: Positive | Literal["auto"] = "auto"
    compile: bool = False
    activation_checkpointing: Literal["none", "all"] | Positive = "none"
    sharding: Sharding = field(default_factory=Sharding)
