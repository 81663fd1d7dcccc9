"""How much memory a training step needs on one GPU: an estimate, by arithmetic that a reader can follow."""

from __future__ import annotations

from dataclasses import dataclass

from maws_composer.planning.workload import Blocks, Workload

# fp32 weight, gradient and two Adam moments
_BYTES_PER_TRAINABLE = 16
_BYTES_PER_FIXED = 4
# What a block keeps for its backward pass, in bytes per token and channel. In fp32: the inputs of norm1, qkv, norm2,
# fc1 and proj, the residual between, q, k and v, and both sides of the GELU, 16 numbers in all. Under bf16 autocast
# the residual stream and the norms stay in fp32.
_KEPT_PER_CHANNEL = {"fp32": 64, "tf32": 64, "amp_bf16": 40}
# A checkpointed block keeps its input, in fp32.
_KEPT_BY_CHECKPOINTED = 4
# CUDA context, NCCL buffers and cuBLAS workspaces (our choice; about what nvidia-smi shows for an idle rank)
FIXED_OVERHEAD = 2.5e9
# The caching allocator's fragments (our choice)
_FRAGMENTATION = 1.1


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one GPU."""

    states: float
    gathered: float
    activations: float

    @property
    def total(self) -> float:
        return (self.states + self.gathered + self.activations) * _FRAGMENTATION + FIXED_OVERHEAD


def estimate_memory(
    workload: Workload, precision: str, microbatch: int, shard: int, activation_checkpointing: str | int
) -> MemoryEstimate:
    """Memory of one training step.

    Args:
        workload: the stage's model.
        precision: fp32, tf32 or amp_bf16.
        microbatch: images per GPU that go forward and backward at once.
        shard: GPUs over which weights, gradients and moments are spread.
        activation_checkpointing: "none", "all" or n for every n-th block.
    """
    trainable, fixed = workload.parameters.trainable, workload.parameters.fixed
    states = (trainable * _BYTES_PER_TRAINABLE + fixed * _BYTES_PER_FIXED) / shard
    return MemoryEstimate(
        states,
        _gathered(workload, precision, shard),
        microbatch * _kept_per_image(workload, precision, activation_checkpointing),
    )


def _gathered(workload: Workload, precision: str, shard: int) -> float:
    """Whole parameters and gradients that exist beside the shards: two blocks ahead, one reduced, and the rest."""
    if shard == 1:
        return 0.0
    block = max(stack.parameters_per_block for stack in workload.stacks)
    weight = 2 if precision == "amp_bf16" else 4
    return block * (2 * weight + 4) + workload.parameters_outside_blocks * 8


def _kept_per_image(workload: Workload, precision: str, activation_checkpointing: str | int) -> float:
    per_channel = _KEPT_PER_CHANNEL[precision]
    checkpointed = workload.checkpointed_per_stack(activation_checkpointing)
    kept, recomputed = 0.0, 0.0
    for stack, few in zip(workload.stacks, checkpointed, strict=True):
        whole = stack.tokens * stack.width * per_channel
        if not stack.is_locked:
            kept += (stack.depth - few) * whole + few * stack.tokens * stack.width * _KEPT_BY_CHECKPOINTED
        recomputed = max(recomputed, whole if few or stack.is_locked else 0.0)
    return kept + recomputed + _outside_blocks(workload.stacks)


def _outside_blocks(stacks: tuple[Blocks, ...]) -> float:
    """Embeddings, unshuffling and the loss in fp32: a handful of tensors as large as the last stack's tokens."""
    last = stacks[-1]
    return 8 * 4 * last.tokens * last.width
