"""The five ViTs: timm's VisionTransformer, with our blocks and with patches that can be left out."""

from functools import partial

import torch
from jaxtyping import Float, Int
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn
from torch.nn.functional import linear

from maws_composer.models.attention import LAYER_NORM_EPS, Block
from maws_composer.models.initialization import initialize_by_name
from maws_composer.models.positions import sincos_positions
from maws_composer.models.sizes import ViTSize


class VisionTransformer(TimmVisionTransformer):
    """A ViT whose state has the keys of timm's and of the released MAWS weights.

    Its parameters hold no values worth anything until they are initialized or loaded.

    Args:
        size: one of `sizes.SIZES`, or your own.
        image_size: side of the square images in pixels.
        fixed_positions: keep the position embeddings at their 2-D sin-cos values (MAE); they are trained otherwise.
        qk_norm: LayerNorm on queries and keys. Adds four entries per block to the state: no released weights fit.
        mean_pooling: the feature is the norm of the mean of the patch tokens (`fc_norm`, in place of `norm`), as in
            the fine-tuned models of the MAE authors. Never initialized, only loaded.

    Raises:
        ValueError: the image size is not a multiple of the patch size.
    """

    def __init__(
        self,
        size: ViTSize,
        image_size: int = 224,
        *,
        fixed_positions: bool = False,
        qk_norm: bool = False,
        mean_pooling: bool = False,
    ) -> None:
        grid = size.grid(image_size)
        super().__init__(
            img_size=image_size,
            patch_size=size.patch_size,
            embed_dim=size.width,
            num_heads=size.heads,
            depth=0,  # timm's blocks cannot choose their attention kernel
            num_classes=0,
            global_pool="avg" if mean_pooling else "token",
            norm_layer=partial(nn.LayerNorm, eps=LAYER_NORM_EPS),
            weight_init="skip",
        )
        self.size = size
        self.qk_norm = qk_norm
        self.grid = (grid, grid)
        self.blocks = nn.Sequential(*[Block(size.width, size.heads, qk_norm) for _ in range(size.depth)])
        self.pos_embed.requires_grad_(not fixed_positions)
        for token in (self.cls_token, self.pos_embed):
            nn.init.constant_(token, torch.nan)  # or it would be whatever was in memory

    def forward(
        self, images: Float[Tensor, "batch 3 height width"], visible: Int[Tensor, "batch visible"] | None = None
    ) -> Float[Tensor, "batch width"] | Float[Tensor, "batch tokens width"]:
        """The image's feature, as timm has it; with `visible`, all tokens, as `forward_visible` has them.

        Both go through here because FSDP gathers the parameters when `forward` is called, not other methods.
        """
        if visible is not None:
            return self.forward_visible(images, visible)
        return self.forward_head(self.forward_features(images))

    def forward_visible(
        self, images: Float[Tensor, "batch 3 height width"], visible: Int[Tensor, "batch visible"]
    ) -> Float[Tensor, "batch 1+visible width"]:
        """Encode the visible patches only (He et al. 2021, section 3); no other is embedded.

        Args:
            images: normalized.
            visible: indices of the patches to keep, in the order in which they are wanted, row by row in the image.

        Returns:
            The class token, then the visible patches, after the final norm.
        """
        projection = self.patch_embed.proj
        pixels = pixels_of(images, visible, self.grid, self.size.patch_size)
        patches = linear(pixels, projection.weight.flatten(1), projection.bias) + self.pos_embed[0, 1:][visible]
        class_token = (self.cls_token + self.pos_embed[:, :1]).expand(len(images), -1, -1)
        return self.norm(self.blocks(torch.cat([class_token, patches], dim=1)))

    def initialize_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        """Fill the whole (unsharded) parameter in place. Raises ValueError for a name without a rule."""
        if name == "pos_embed":
            tensor.copy_(sincos_positions(self.size.width, self.grid))
        else:
            initialize_by_name(name, tensor, generator)


def pixels_of(
    images: Float[Tensor, "batch 3 height width"],
    patches: Int[Tensor, "batch some"],
    grid: tuple[int, int],
    patch_size: int,
) -> Float[Tensor, "batch some values"]:
    """The pixels of some patches of each image, channel by channel, as a convolution's weight has them.

    Args:
        patches: their indices, row by row in the image.
        grid: rows and columns of patches.
    """
    rows, columns = grid
    pieces = images.unflatten(2, (rows, patch_size)).unflatten(4, (columns, patch_size))
    image = torch.arange(len(images), device=images.device).unsqueeze(1)
    return pieces[image, :, patches // columns, :, patches % columns].flatten(2)
