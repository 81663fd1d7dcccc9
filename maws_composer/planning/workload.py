"""What a stage asks of a GPU, in numbers that need no torch and no model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from maws_composer.models.sizes import DecoderSize, ViTSize, visible_patches
from maws_composer.planning.blocks import Blocks, Numbers
from maws_composer.planning.flops import classifier_macs, mae_macs, training_flops, vit_macs
from maws_composer.planning.parameters import Parameters, classifier_parameters, mae_parameters, vit_parameters


class TextWorkload(NamedTuple):
    """A text tower: all its parameters, and its blocks."""

    parameters: int
    blocks: Blocks


@dataclass(frozen=True)
class Surroundings:
    """What memory holds before and behind the blocks; numbers are of one image.

    Attributes:
        sample_bytes: of a sample in the batch, on the device.
        embedded: numbers that the embedding keeps for its backward pass.
        outputs: numbers of what the forward pass returns. The trainer holds them until the next ones.
        loss: further numbers at the loss or in its backward pass, where they are most.
        embedding_parameters: trained ones in front of the blocks, whose gradients come last.
        single_rows: trained parameters in tensors whose first dimension is 1, such as class tokens. FSDP2 shards that:
            it gathers such a tensor as often as there are shards.
        fixed_rows: (count, width) of those that are not trained, such as positions. They are sharded by width, and are
            like the others if that does not come out even.
        metrics_bytes: that evaluations count in, which lie on the device all the time.
        pairs_width: of the embeddings of a loss over all pairs of the batch. None: each image has a loss of its own.
    """

    sample_bytes: int
    embedded: Numbers
    outputs: Numbers
    loss: Numbers
    embedding_parameters: int
    single_rows: int
    fixed_rows: tuple[tuple[int, int], ...]
    metrics_bytes: int = 0
    pairs_width: int | None = None


@dataclass(frozen=True)
class Workload:
    """One stage's model, per image.

    Attributes:
        parameters: all of them, and those without a gradient.
        forward_macs: multiply-accumulates of one image, forward, of what is trained.
        stacks: the stacks of blocks, in the order of the forward pass.
        surroundings: of the blocks.
        locked_macs: multiply-accumulates of one image, forward, of what is not.
        caches_gradients: microbatches are embedded once more, before the loss is known.
    """

    parameters: Parameters
    forward_macs: int
    stacks: tuple[Blocks, ...]
    surroundings: Surroundings
    locked_macs: int = 0
    caches_gradients: bool = False

    @property
    def training_flops(self) -> int:
        """FLOPs of training on one image, without recomputation: three forward passes, of what is locked one."""
        return training_flops(self.forward_macs) + 2 * self.locked_macs

    @property
    def parameters_outside_blocks(self) -> int:
        return self.parameters.total - sum(stack.depth * stack.parameters_per_block for stack in self.stacks)

    def gathered_outside_blocks(self, shard: int) -> int:
        """The same, with what FSDP2 fills up over so many shards."""
        uneven = sum(count * width for count, width in self.surroundings.fixed_rows if width % shard)
        return self.parameters_outside_blocks + (shard - 1) * (self.surroundings.single_rows + uneven)

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
    visible, pixels = visible_patches(patches, mask_ratio), patches * size.patch_values
    hidden = patches - visible
    guessed = hidden * size.patch_values
    return Workload(
        mae_parameters(size, image_size, decoder, qk_norm=qk_norm),
        mae_macs(size, image_size, mask_ratio, decoder).total,
        (
            Blocks(size.depth, size.width, size.head_dim, visible + 1, qk_norm),
            Blocks(decoder.depth, decoder.width, decoder.head_dim, patches + 1, qk_norm, wanted=hidden),
        ),
        Surroundings(
            sample_bytes=pixels,
            embedded=Numbers(computed=visible * size.patch_values),
            outputs=Numbers(computed=guessed),
            # Of the error's square in the backward pass the error, the incoming gradient, two products and the result.
            # In the forward pass as many: images, patches, centered, normalized, and the prediction in fp32.
            loss=Numbers(fp32=5 * guessed),
            embedding_parameters=(size.patch_values + 2) * size.width,
            single_rows=size.width + decoder.width,
            fixed_rows=((patches + 1, size.width), (patches + 1, decoder.width)),
        ),
    )


def wsp_workload(
    size: ViTSize,
    num_classes: int,
    image_size: int,
    fixed_positions: bool,
    qk_norm: bool,
    metrics_bytes: int = 0,
) -> Workload:
    """Blocks on all patches and the class token, then the head."""
    parameters = classifier_parameters(size, num_classes, image_size, fixed_positions=fixed_positions, qk_norm=qk_norm)
    patches = size.patches(image_size)
    positions = (patches + 1) * size.width
    return Workload(
        parameters,
        classifier_macs(size, num_classes, image_size),
        (Blocks(size.depth, size.width, size.head_dim, patches + 1, qk_norm),),
        Surroundings(
            sample_bytes=patches * size.patch_values,
            embedded=Numbers(computed=patches * size.patch_values),
            outputs=Numbers(computed=num_classes),
            loss=Numbers(fp32=num_classes, cast=2 * num_classes),  # softmax of logits, and these in fp32
            embedding_parameters=(size.patch_values + 2) * size.width + positions - parameters.fixed,
            single_rows=size.width + positions - parameters.fixed,
            fixed_rows=((patches + 1, size.width),) if fixed_positions else (),
            metrics_bytes=metrics_bytes,
        ),
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
    patches = size.patches(image_size)
    images = Blocks(size.depth, size.width, size.head_dim, patches + 1, qk_norm, lock_image_tower)
    outside_images = tower - images.depth * images.parameters_per_block if not image_embeddings else 0
    outside_texts = text.parameters - text.blocks.depth * text.blocks.parameters_per_block
    pixels = patches * size.patch_values
    return Workload(
        Parameters(total, fixed),
        of_texts + image_projection + text_projection + of_images * (not lock_image_tower),
        (
            *(() if image_embeddings else (images,)),
            text.blocks,
        ),
        Surroundings(
            sample_bytes=(4 * size.width if image_embeddings else pixels) + 16 * text.blocks.tokens,  # ids, mask
            # what the norm of text embeddings reads; of images nothing where their tower is locked
            embedded=Numbers(fp32=text.blocks.channels, computed=0 if lock_image_tower else pixels),
            outputs=Numbers(fp32=2 * embed_dim),
            loss=Numbers(fp32=6 * embed_dim),  # both embeddings before they had unit length, and gradients
            embedding_parameters=outside_texts + outside_images * (not lock_image_tower),
            single_rows=0 if image_embeddings or lock_image_tower else (patches + 2) * size.width,
            fixed_rows=((patches + 2, size.width),) if lock_image_tower and not image_embeddings else (),
            pairs_width=embed_dim,
        ),
        locked_macs=of_images * lock_image_tower,
        caches_gradients=True,
    )
