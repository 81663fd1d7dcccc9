"""What a stage asks of a GPU, in numbers that need no torch and no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from maws_composer.models.sizes import DecoderSize, ViTSize, visible_patches
from maws_composer.planning.flops import block_macs, classifier_macs, mae_macs, training_flops, vit_macs
from maws_composer.planning.parameters import (
    Parameters,
    block_parameters,
    classifier_parameters,
    mae_parameters,
    vit_parameters,
)


@dataclass(frozen=True)
class Blocks:
    """A stack of equal transformer blocks, and how many tokens of one image (or text) go through it.

    A locked one is not trained: it keeps no activations, and is never checkpointed. Blocks that are not ours say how
    many parameters each has.
    """

    depth: int
    width: int
    head_dim: int
    tokens: int
    qk_norm: bool = False
    is_locked: bool = False
    own_parameters: int | None = None

    @property
    def parameters_per_block(self) -> int:
        if self.own_parameters is not None:
            return self.own_parameters
        return block_parameters(self.width, self.head_dim, self.qk_norm)

    @property
    def macs_per_block(self) -> int:
        if self.own_parameters is not None:  # each is used once for each token
            return self.tokens * self.own_parameters + 2 * self.tokens**2 * self.width
        return block_macs(self.width, self.tokens)


class TextWorkload(NamedTuple):
    """A text tower: all its parameters, and its blocks."""

    parameters: int
    blocks: Blocks


@dataclass(frozen=True)
class Workload:
    """One stage's model, per image.

    Attributes:
        parameters: all of them, and those without a gradient.
        forward_macs: multiply-accumulates of one image, forward, of what is trained.
        stacks: the stacks of blocks, in the order of the forward pass.
        locked_macs: multiply-accumulates of one image, forward, of what is not.
        caches_gradients: microbatches are embedded once more, before the loss is known.
    """

    parameters: Parameters
    forward_macs: int
    stacks: tuple[Blocks, ...]
    locked_macs: int = 0
    caches_gradients: bool = False

    @property
    def training_flops(self) -> int:
        """FLOPs of training on one image, without recomputation: three forward passes, of what is locked one."""
        return training_flops(self.forward_macs) + 2 * self.locked_macs

    @property
    def parameters_outside_blocks(self) -> int:
        return self.parameters.total - sum(stack.depth * stack.parameters_per_block for stack in self.stacks)

    @property
    def trained_in_blocks(self) -> int:
        """Parameters of the blocks that have a backward pass."""
        return sum(stack.depth * stack.parameters_per_block for stack in self.stacks if not stack.is_locked)

    def checkpointed_per_stack(self, activation_checkpointing: str | int) -> list[int]:
        """How many blocks of each stack recompute their activations; every n-th counts through all stacks."""
        counts, first = [], 0
        for stack in self.stacks:
            numbers = range(first, first + (0 if stack.is_locked else stack.depth))
            counts.append(sum(is_checkpointed(number, activation_checkpointing) for number in numbers))
            first += len(numbers)
        return counts

    def recomputed_flops(self, activation_checkpointing: str | int, in_microbatches: bool = False) -> int:
        """FLOPs that activation checkpointing and gradient caching add for one image; MFU leaves them out.

        Args:
            activation_checkpointing: "none", "all" or n for every n-th block.
            in_microbatches: a GPU's share of the batch does not go through it at once.
        """
        counts = self.checkpointed_per_stack(activation_checkpointing)
        cached = self.forward_macs if self.caches_gradients and in_microbatches else 0
        checkpointed = sum(count * stack.macs_per_block for count, stack in zip(counts, self.stacks, strict=True))
        return 2 * (checkpointed + cached)


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


def lit_workload(
    size: ViTSize,
    image_size: int,
    qk_norm: bool,
    text: TextWorkload,
    embed_dim: int,
    *,
    has_bias: bool,
    lock_image_tower: bool,
    lock_image_projection: bool,
    image_embeddings: bool,
) -> Workload:
    """The image tower's blocks, if there are images; the text tower's on all tokens of the context; the projections."""
    tower = vit_parameters(size, image_size, qk_norm=qk_norm).total if not image_embeddings else 0
    image_projection, text_projection = size.width * embed_dim, text.blocks.width * embed_dim
    fixed = tower * lock_image_tower + image_projection * lock_image_projection
    total = tower + text.parameters + image_projection + text_projection + 1 + has_bias
    of_images = vit_macs(size, image_size) if not image_embeddings else 0
    of_texts = text.blocks.depth * text.blocks.macs_per_block
    images = Blocks(size.depth, size.width, size.head_dim, size.patches(image_size) + 1, qk_norm, lock_image_tower)
    return Workload(
        Parameters(total, fixed),
        of_texts + image_projection + text_projection + of_images * (not lock_image_tower),
        (
            *(() if image_embeddings else (images,)),
            text.blocks,
        ),
        locked_macs=of_images * lock_image_tower,
        caches_gradients=True,
    )
