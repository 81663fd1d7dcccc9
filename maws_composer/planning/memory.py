"""How much memory a training step needs on one GPU: an estimate, by arithmetic that a reader can follow."""

from __future__ import annotations

from dataclasses import dataclass

from maws_composer.planning.step import Step
from maws_composer.planning.workload import Workload

BYTES_PER_WEIGHT = 4  # of the shards, in fp32
BYTES_PER_MOMENTS = 8  # Adam's two
# CUDA context, NCCL buffers and cuBLAS workspaces (our choice; about what nvidia-smi shows for an idle rank)
FIXED_OVERHEAD = 2.5e9
# The caching allocator's fragments (our choice)
_FRAGMENTATION = 1.1


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one GPU, at the moment of a step at which they are most.

    Attributes:
        when: that moment, to be read behind "most".
        weights, gradients, moments: this GPU's shards; gradients as far as they are there at that moment.
        callbacks: what callbacks keep of the parameters, such as a moving average, of this GPU's shards.
        metrics: of evaluations, which lie there while training, too.
        gathered: whole parameters, and whole gradients that are not reduced yet.
        activations: the batch, what is kept for the backward pass, and what is being computed.
        kept: of them, what the whole forward pass keeps; computed again is not kept.
    """

    when: str
    weights: float
    gradients: float
    moments: float
    callbacks: float
    metrics: float
    gathered: float
    activations: float
    kept: float

    @property
    def tensors(self) -> float:
        """All of them."""
        there_always = self.weights + self.moments + self.callbacks + self.metrics
        return there_always + self.gradients + self.gathered + self.activations

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
    passes: int = 1,
    replicate: int = 1,
    reshard_after_forward: bool = True,
) -> MemoryEstimate:
    """Memory of one training step, whose blocks are not compiled.

    Args:
        workload: the stage's model.
        precision: fp32, tf32 or amp_bf16.
        microbatch: images per GPU that go forward and backward at once.
        shard: GPUs over which weights, gradients and moments are spread.
        activation_checkpointing: "none", "all" or n for every n-th block.
        kept_by_callbacks: bytes per trained parameter.
        passes: microbatches of a step.
        replicate: groups of so many GPUs.
        reshard_after_forward: blocks are gathered again for the backward pass.
    """
    step = Step(
        workload, precision, microbatch, shard, activation_checkpointing, passes, replicate, reshard_after_forward
    )
    most = max(step.moments(), key=lambda moment: moment.total)
    parameters = workload.parameters
    return MemoryEstimate(
        when=most.when,
        weights=parameters.total * BYTES_PER_WEIGHT / shard,
        gradients=most.gradients,
        moments=parameters.trainable * BYTES_PER_MOMENTS / shard,
        callbacks=parameters.trainable * kept_by_callbacks / shard,
        metrics=workload.surroundings.metrics_bytes,
        gathered=most.gathered,
        activations=most.activations,
        kept=step.kept,
    )


def checkpoint_bytes(trained: int, kept_by_callbacks: int = 0) -> int:
    """Of a checkpoint: weights and moments of what is trained, and what callbacks keep of it; the rest is little."""
    return trained * (BYTES_PER_WEIGHT + BYTES_PER_MOMENTS + kept_by_callbacks)
