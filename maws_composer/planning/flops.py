"""How much a model computes, in closed form (multiply-accumulates of matrix products; the rest is below 0.5 %).

A multiply-accumulate (MAC) is two FLOPs; training costs three forward passes. What activation checkpointing computes
again is not in these figures, because MFU leaves it out: see `planning.workload`.
"""

from typing import NamedTuple

from maws_composer.models.sizes import DecoderSize, ViTSize, visible_patches


class MaeMacs(NamedTuple):
    """MACs of one image through the MAE, forward."""

    encoder: int
    decoder: int

    @property
    def total(self) -> int:
        return self.encoder + self.decoder


def block_macs(width: int, tokens: int) -> int:
    """MACs of one transformer block: projections and MLP, then queries by keys and attention by values."""
    return 12 * tokens * width**2 + 2 * tokens**2 * width


def vit_macs(size: ViTSize, image_size: int = 224) -> int:
    """MACs of one image through the ViT on all patches, forward, without a head."""
    patches = size.patches(image_size)
    return _patch_embedding_macs(size, patches) + size.depth * block_macs(size.width, patches + 1)


def classifier_macs(size: ViTSize, num_classes: int, image_size: int = 224) -> int:
    """MACs of one image through the ViT and a linear head, forward."""
    return vit_macs(size, image_size) + num_classes * size.width


def mae_macs(
    size: ViTSize, image_size: int = 224, mask_ratio: float = 0.75, decoder: DecoderSize | None = None
) -> MaeMacs:
    """MACs of one image through the MAE, forward, as the authors have it: all patches are embedded and guessed.

    Ours embeds the visible ones only, and its last block and head make the hidden ones only: 2.4 % less of ViT-B.
    """
    decoder = decoder or DecoderSize()
    patches = size.patches(image_size)
    seen, tokens = visible_patches(patches, mask_ratio) + 1, patches + 1
    encoder = _patch_embedding_macs(size, patches) + size.depth * block_macs(size.width, seen)
    embedding = seen * size.width * decoder.width
    prediction = tokens * decoder.width * size.patch_values
    return MaeMacs(encoder, embedding + decoder.depth * block_macs(decoder.width, tokens) + prediction)


def training_flops(forward_macs: int) -> int:
    """FLOPs of training on one image, without recomputation: the backward pass costs twice the forward pass."""
    return 3 * 2 * forward_macs


def _patch_embedding_macs(size: ViTSize, patches: int) -> int:
    return patches * size.patch_values * size.width
