"""The masked autoencoder of He et al. 2021 on timm's parts, as a yardstick: all patches embedded, then masked.

The parameters have the names of the authors' checkpoints.
"""

from __future__ import annotations

from functools import partial

import torch
from timm.models.vision_transformer import Block, PatchEmbed
from torch import Tensor, nn

from maws_composer.models.sizes import DecoderSize, ViTSize

_NORM = partial(nn.LayerNorm, eps=1e-6)


class MaeOnTimm(nn.Module):
    """Encoder on a quarter of the patches, decoder on all; the loss of normalized pixels on the hidden ones.

    Args:
        size, decoder: their shapes.
        image_size: side of the images.
    """

    def __init__(self, size: ViTSize, decoder: DecoderSize, image_size: int) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(image_size, size.patch_size, 3, size.width)
        patches = self.patch_embed.num_patches
        self.cls_token = nn.Parameter(torch.zeros(1, 1, size.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, patches + 1, size.width), requires_grad=False)
        self.blocks = nn.Sequential(*_blocks(size))
        self.norm = _NORM(size.width)
        self.decoder_embed = nn.Linear(size.width, decoder.width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder.width))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, patches + 1, decoder.width), requires_grad=False)
        self.decoder_blocks = nn.Sequential(*_blocks(decoder))
        self.decoder_norm = _NORM(decoder.width)
        self.decoder_pred = nn.Linear(decoder.width, size.patch_values)

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        """The loss; the patches with the smallest noise stay visible."""
        tokens = self.patch_embed(images) + self.pos_embed[:, 1:]
        order = noise.argsort(dim=1)
        back = order.argsort(dim=1)
        kept = order[:, : tokens.shape[1] // 4]
        tokens = tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[-1]))
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        tokens = self.decoder_embed(self.norm(self.blocks(torch.cat([first, tokens], 1))))
        hidden = self.mask_token.expand(len(tokens), back.shape[1] - kept.shape[1], -1)
        shuffled = torch.cat([tokens[:, 1:], hidden], 1)
        patches = shuffled.gather(1, back[..., None].expand(-1, -1, shuffled.shape[-1]))
        tokens = torch.cat([tokens[:, :1], patches], 1) + self.decoder_pos_embed
        predicted = self.decoder_pred(self.decoder_norm(self.decoder_blocks(tokens)))[:, 1:]
        error = (predicted - self._targets(images)).square().mean(-1)
        mask = torch.ones_like(error).scatter(1, kept, 0.0)
        return (error * mask).sum() / mask.sum()

    def _targets(self, images: Tensor) -> Tensor:
        (side, _), (rows, columns) = self.patch_embed.patch_size, self.patch_embed.grid_size
        pieces = images.reshape(len(images), 3, rows, side, columns, side)
        pixels = torch.einsum("nchpwq->nhwpqc", pieces).reshape(len(images), rows * columns, -1)
        return (pixels - pixels.mean(-1, keepdim=True)) / (pixels.var(-1, keepdim=True) + 1e-6).sqrt()


def _blocks(shape: ViTSize | DecoderSize) -> list[nn.Module]:
    return [Block(shape.width, shape.heads, qkv_bias=True, norm_layer=_NORM) for _ in range(shape.depth)]
