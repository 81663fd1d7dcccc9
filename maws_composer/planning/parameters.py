"""How many parameters a model has, in closed form: no torch, no model."""

from typing import NamedTuple

from maws_composer.models.sizes import DecoderSize, TextSize, ViTSize


class Parameters(NamedTuple):
    """Counts of parameters.

    Attributes:
        total: all of them, as the state has them.
        fixed: those that no gradient reaches: fixed position embeddings.
    """

    total: int
    fixed: int

    @property
    def trainable(self) -> int:
        return self.total - self.fixed


def vit_parameters(
    size: ViTSize, image_size: int = 224, *, fixed_positions: bool = False, qk_norm: bool = False
) -> Parameters:
    """Parameters of a ViT without a head.

    Args:
        size, image_size, fixed_positions, qk_norm: as for `models.vit.VisionTransformer`.
    """
    width = size.width
    patch_embedding = size.patch_values * width + width
    positions = (size.patches(image_size) + 1) * width
    blocks = size.depth * block_parameters(width, size.head_dim, qk_norm)
    class_token, norm = width, 2 * width
    total = patch_embedding + class_token + positions + blocks + norm
    return Parameters(total, fixed=positions if fixed_positions else 0)


def decoder_parameters(
    size: ViTSize, image_size: int = 224, decoder: DecoderSize | None = None, *, qk_norm: bool = False
) -> Parameters:
    """Parameters of the MAE decoder of an encoder of this size."""
    decoder = decoder or DecoderSize()
    width = decoder.width
    embedding = size.width * width + width
    prediction = width * size.patch_values + size.patch_values
    positions = (size.patches(image_size) + 1) * width
    blocks = decoder.depth * block_parameters(width, decoder.head_dim, qk_norm)
    mask_token, norm = width, 2 * width
    return Parameters(embedding + mask_token + positions + blocks + norm + prediction, fixed=positions)


def mae_parameters(
    size: ViTSize, image_size: int = 224, decoder: DecoderSize | None = None, *, qk_norm: bool = False
) -> Parameters:
    """Parameters of encoder and decoder in MAE pre-pretraining, where the positions of both are fixed."""
    parts = (
        vit_parameters(size, image_size, fixed_positions=True, qk_norm=qk_norm),
        decoder_parameters(size, image_size, decoder, qk_norm=qk_norm),
    )
    return Parameters(sum(part.total for part in parts), sum(part.fixed for part in parts))


def classifier_parameters(
    size: ViTSize, num_classes: int, image_size: int = 224, *, fixed_positions: bool = False, qk_norm: bool = False
) -> Parameters:
    """Parameters of a ViT with a linear head."""
    vit = vit_parameters(size, image_size, fixed_positions=fixed_positions, qk_norm=qk_norm)
    return Parameters(vit.total + num_classes * (size.width + 1), vit.fixed)


def text_parameters(size: TextSize) -> int:
    """Parameters of a text encoder of BERT's kind, without a pooler."""
    embeddings = (size.vocabulary + size.positions + size.token_types) * size.width
    return embeddings + 2 * size.width + size.depth * block_parameters(size.width, size.head_dim)


def block_parameters(width: int, head_dim: int, qk_norm: bool = False) -> int:
    """Parameters of one transformer block."""
    attention = 4 * width**2 + 4 * width
    mlp = 8 * width**2 + 5 * width
    norms = 4 * width + (4 * head_dim if qk_norm else 0)
    return attention + mlp + norms
