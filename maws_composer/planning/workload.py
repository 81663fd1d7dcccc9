"""What a stage asks of a GPU, in numbers that need no torch and no model."""

from __future__ import annotations

from dataclasses import dataclass

from maws_composer.models.sizes import DecoderSize, ViTSize, visible_patches
from maws_composer.planning.flops import block_macs, classifier_macs, mae_macs, training_flops
from maws_composer.planning.parameters import Parameters, block_parameters, classifier_parameters, mae_parameters


@dataclass(frozen=True)
class Blocks:
    """A stack of equal transformer blocks, and how many tokens of one image go through it."""

    depth: int
    width: int
    head_dim: int
    tokens: int
    qk_norm: bool = False

    @property
    def parameters_per_block(self) -> int:
        return block_parameters(self.width, self.head_dim, self.qk_norm)

    @property
    def macs_per_block(self) -> int:
        return block_macs(self.width, self.tokens)


@dataclass(frozen=True)
class Workload:
    """One stage's model, per image.

    Attributes:
        parameters: all of them, and those without a gradient.
        forward_macs: multiply-accumulates of one image, forward.
        stacks: the stacks of blocks, in the order of the forward pass.
    """

    parameters: Parameters
    forward_macs: int
    stacks: tuple[Blocks, ...]

    @property
    def training_flops(self) -> int:
        """FLOPs of training on one image, without recomputation: three forward passes."""
        return training_flops(self.forward_macs)

    @property
    def parameters_outside_blocks(self) -> int:
        return self.parameters.total - sum(stack.depth * stack.parameters_per_block for stack in self.stacks)

    def checkpointed_per_stack(self, activation_checkpointing: str | int) -> list[int]:
        """How many blocks of each stack recompute their activations; every n-th counts through all stacks."""
        counts, first = [], 0
        for stack in self.stacks:
            numbers = range(first, first + stack.depth)
            counts.append(sum(is_checkpointed(number, activation_checkpointing) for number in numbers))
            first += stack.depth
        return counts

    def recomputed_flops(self, activation_checkpointing: str | int) -> int:
        """FLOPs that activation checkpointing adds for one image; MFU leaves them out."""
        counts = self.checkpointed_per_stack(activation_checkpointing)
        return 2 * sum(count * stack.macs_per_block for count, stack in zip(counts, self.stacks, strict=True))


def is_checkpointed(number: int, activation_checkpointing: str | int) -> bool:
    """Whether the block with this number (from 0, in the order of the forward pass) recomputes its activations."""
    if isinstance(activation_checkpointing, str):
        return activation_checkpointing == "all"
    return number % activation_checkpointing == 0


def mae_workload(size: ViTSize, image_size: int, mask_ratio: float, decoder: DecoderSize, qk_norm: bool) -> Workload:
    """Encoder blocks on the class token and the visible patches, decoder blocks on all of them."""
    patches = size.patches(image_size)
    return Workload(
        mae_parameters(size, image_size, decoder, qk_norm=qk_norm),
        mae_macs(size, image_size, mask_ratio, decoder).total,
        (
            Blocks(size.depth, size.width, size.head_dim, visible_patches(patches, mask_ratio) + 1, qk_norm),
            Blocks(decoder.depth, decoder.width, decoder.head_dim, patches + 1, qk_norm),
        ),
    )


def wsp_workload(size: ViTSize, num_classes: int, image_size: int, fixed_positions: bool, qk_norm: bool) -> Workload:
    """Blocks on all patches and the class token, then the head."""
    return Workload(
        classifier_parameters(size, num_classes, image_size, fixed_positions=fixed_positions, qk_norm=qk_norm),
        classifier_macs(size, num_classes, image_size),
        (Blocks(size.depth, size.width, size.head_dim, size.patches(image_size) + 1, qk_norm),),
    )
