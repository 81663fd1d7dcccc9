"""How much memory a training step needs on one GPU: an estimate, by arithmetic that a reader can follow."""

from __future__ import annotations

from dataclasses import dataclass

from maws_composer.planning.workload import Blocks, Workload

BYTES_PER_WEIGHT = 4  # of the shards, in fp32
BYTES_PER_GRADIENT = 4  # reduced in fp32
BYTES_PER_MOMENTS = 8  # Adam's two
BYTES_PER_GATHERED = {"fp32": 4, "tf32": 4, "amp_bf16": 2}  # of a block's weight, while it is computed with
# What a block keeps for its backward pass, in bytes per token and channel. In fp32: the inputs of norm1, qkv, norm2,
# fc1 and proj, the residual between, q, k and v, and both sides of the GELU, 16 numbers in all. Under bf16 autocast
# the two of the residual stream stay in fp32.
_KEPT_PER_CHANNEL = {"fp32": 64, "tf32": 64, "amp_bf16": 36}
# What goes through a block and is kept by nobody is most at the GELU: its two sides, the residual stream and norm2's
# output; in the backward pass about as much, of gradients.
_PASSING_PER_CHANNEL = {"fp32": 40, "tf32": 40, "amp_bf16": 24}
# A checkpointed block keeps its input, in fp32.
_KEPT_BY_CHECKPOINTED = 4
# CUDA context, NCCL buffers and cuBLAS workspaces (our choice; about what nvidia-smi shows for an idle rank)
FIXED_OVERHEAD = 2.5e9
# The caching allocator's fragments (our choice)
_FRAGMENTATION = 1.1


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one GPU.

    Attributes:
        weights, gradients, moments: this GPU's shards.
        callbacks: what callbacks keep of the parameters, such as a moving average, of this GPU's shards.
        gathered: whole parameters of the blocks that are being computed, or of all, and gradients of one.
        activations: what is kept for the backward pass.
    """

    weights: float
    gradients: float
    moments: float
    callbacks: float
    gathered: float
    activations: float

    @property
    def states(self) -> float:
        """What does not depend on the microbatch."""
        return self.weights + self.gradients + self.moments + self.callbacks

    @property
    def tensors(self) -> float:
        """What there is at the moment when it is most."""
        return self.states + self.gathered + self.activations

    @property
    def overhead(self) -> float:
        """CUDA's own, and what the allocator cannot use."""
        return self.tensors * (_FRAGMENTATION - 1) + FIXED_OVERHEAD

    @property
    def total(self) -> float:
        return self.tensors + self.overhead


def estimate_memory(
    workload: Workload,
    precision: str,
    microbatch: int,
    shard: int,
    activation_checkpointing: str | int,
    kept_by_callbacks: int = 0,
    *,
    reshard_after_forward: bool = True,
) -> MemoryEstimate:
    """Memory of one training step.

    Args:
        workload: the stage's model.
        precision: fp32, tf32 or amp_bf16.
        microbatch: images per GPU that go forward and backward at once.
        shard: GPUs over which weights, gradients and moments are spread.
        activation_checkpointing: "none", "all" or n for every n-th block.
        kept_by_callbacks: bytes per trained parameter.
        reshard_after_forward: not all blocks are gathered at the end of the forward pass.
    """
    parameters = workload.parameters
    return MemoryEstimate(
        weights=parameters.total * BYTES_PER_WEIGHT / shard,
        gradients=parameters.trainable * BYTES_PER_GRADIENT / shard,
        moments=parameters.trainable * BYTES_PER_MOMENTS / shard,
        callbacks=parameters.trainable * kept_by_callbacks / shard,
        gathered=_gathered(workload, precision, reshard_after_forward),
        activations=microbatch * _kept_per_image(workload, precision, activation_checkpointing),
    )


def checkpoint_bytes(trained: int, kept_by_callbacks: int = 0) -> int:
    """Of a checkpoint: weights and moments of what is trained, and what callbacks keep of it; the rest is little."""
    return trained * (BYTES_PER_WEIGHT + BYTES_PER_MOMENTS + kept_by_callbacks)


def _gathered(workload: Workload, precision: str, reshard_after_forward: bool) -> float:
    """Whole parameters and gradients that exist beside the shards: two blocks ahead, one reduced, and the rest.

    Not resharded, all blocks that are trained, and one that is on its way. FSDP2 makes these copies where one GPU has
    all shards, too.
    """
    block = max(stack.parameters_per_block for stack in workload.stacks)
    gathered = 2 * block if reshard_after_forward else workload.trained_in_blocks + block
    of_blocks = gathered * BYTES_PER_GATHERED[precision] + block * BYTES_PER_GRADIENT
    return of_blocks + workload.parameters_outside_blocks * 8


def _kept_per_image(workload: Workload, precision: str, activation_checkpointing: str | int) -> float:
    checkpointed = workload.checkpointed_per_stack(activation_checkpointing)
    kept, recomputed, passing, locked = 0.0, 0.0, 0.0, 0.0
    for stack, few in zip(workload.stacks, checkpointed, strict=True):
        channels = stack.tokens * stack.width
        whole, through = (channels * per[precision] for per in (_KEPT_PER_CHANNEL, _PASSING_PER_CHANNEL))
        if stack.is_locked:  # over before anything is kept
            locked = through
            continue
        kept += (stack.depth - few) * whole + few * channels * _KEPT_BY_CHECKPOINTED
        recomputed = max(recomputed, whole if few else 0.0)
        passing = max(passing, through)
    return max(kept + max(recomputed, passing) + _outside_blocks(workload.stacks), locked)


def _outside_blocks(stacks: tuple[Blocks, ...]) -> float:
    """Embeddings, unshuffling and the loss in fp32: a handful of tensors as large as the last stack's tokens."""
    last = stacks[-1]
    return 8 * 4 * last.tokens * last.width
