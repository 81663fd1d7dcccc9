"""Masked autoencoder (He et al. 2021, "Masked autoencoders are scalable vision learners")."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from maws_composer.models.attention import LAYER_NORM_EPS, Block, FinalBlock, chosen
from maws_composer.models.initialization import initialize_by_name
from maws_composer.models.positions import sincos_positions
from maws_composer.models.sizes import DecoderSize, visible_patches
from maws_composer.models.vit import VisionTransformer


class MaeOutput(NamedTuple):
    """What a forward pass leaves. A tuple, because FSDP looks for gradients in tuples and not in dataclasses.

    Attributes:
        loss_per_patch: mean squared error of each hidden patch, in fp32.
        hidden: which patches are hidden; of all images equally many.
        prediction: values of each hidden patch, normalized by patch if the targets are.
    """

    loss_per_patch: Float[Tensor, "batch hidden"]
    hidden: Int[Tensor, "batch hidden"]
    prediction: Float[Tensor, "batch hidden values"]

    @property
    def loss_per_sample(self) -> Float[Tensor, " batch"]:
        """Mean over the hidden patches of each image."""
        return self.loss_per_patch.mean(1)

    @property
    def loss(self) -> Float[Tensor, ""]:
        """Mean over all hidden patches."""
        return self.loss_per_patch.mean()


class MaskedAutoencoder(nn.Module):
    """A ViT encoder on the visible patches and a small decoder that guesses the pixels of the hidden ones.

    Names in the state: `encoder.<name>` is `<name>` in a checkpoint of the MAE authors' code and in the released
    weights; mask_token, decoder_embed, decoder_pos_embed, decoder_blocks.<i>, decoder_norm and decoder_pred are
    called the same there. So stripping "encoder." maps one to the other.

    Args:
        encoder: the ViT; the decoder's blocks have QK-norm if the encoder's have.
        decoder: width, depth and heads of the decoder.
        mask_ratio: share of the patches that are hidden.
        norm_pix_loss: predict each patch's pixels less their mean, divided by their standard deviation.

    Raises:
        ValueError: the mask ratio leaves nothing visible or nothing hidden.
    """

    def __init__(
        self,
        encoder: VisionTransformer,
        decoder: DecoderSize | None = None,
        mask_ratio: float = 0.75,
        norm_pix_loss: bool = True,
    ) -> None:
        super().__init__()
        decoder = decoder or DecoderSize()
        size, rows, columns = encoder.size, *encoder.grid
        self.visible = visible_patches(rows * columns, mask_ratio)
        self.norm_pix_loss = norm_pix_loss
        self.patch_size = size.patch_size

        self.encoder = encoder
        self.decoder_embed = nn.Linear(size.width, decoder.width)
        self.mask_token = nn.Parameter(torch.full((1, 1, decoder.width), torch.nan))
        self.decoder_pos_embed = nn.Parameter(
            torch.full((1, 1 + rows * columns, decoder.width), torch.nan), requires_grad=False
        )
        kinds = [Block] * (decoder.depth - 1) + [FinalBlock]
        self.decoder_blocks = nn.Sequential(*[kind(decoder.width, decoder.heads, encoder.qk_norm) for kind in kinds])
        self.decoder_norm = nn.LayerNorm(decoder.width, eps=LAYER_NORM_EPS)
        self.decoder_pred = nn.Linear(decoder.width, size.patch_values)

    def forward(self, images: Float[Tensor, "batch 3 height width"], noise: Int[Tensor, "batch patches"]) -> MaeOutput:
        """Hide patches, encode the rest, guess the hidden ones, compare.

        Args:
            images: normalized, in fp32: the targets are made from them.
            noise: random integers; the patches with the smallest stay visible. Nothing in here is random.
        """
        visible, hidden = split_patches(noise, self.visible)
        prediction = self.decode(self.encoder(images, visible), visible, hidden)
        # never in half precision, not even inside autocast
        error = prediction.float() - self.targets(images, hidden)
        return MaeOutput(error.square().mean(dim=-1), hidden, prediction)

    def decode(
        self,
        tokens: Float[Tensor, "batch 1+visible width"],
        visible: Int[Tensor, "batch visible"],
        hidden: Int[Tensor, "batch hidden"],
    ) -> Float[Tensor, "batch hidden values"]:
        """Put the encoded patches back in their places, mask tokens in the others, and guess the pixels of these."""
        tokens = self.decoder_embed(tokens).to(self.mask_token.dtype)
        class_token, seen = tokens[:, :1], tokens[:, 1:]
        batch, _, width = seen.shape
        unseen = self.mask_token.expand(batch, self.decoder_pos_embed.shape[1] - 1, width)
        patches = unseen.scatter(1, visible.unsqueeze(-1).expand(-1, -1, width), seen)
        tokens = torch.cat([class_token, patches], dim=1) + self.decoder_pos_embed
        *blocks, last = self.decoder_blocks
        for block in blocks:
            tokens = block(tokens)
        return self.decoder_pred(self.decoder_norm(last(tokens, hidden + 1)))  # the class token is before them

    def targets(
        self, images: Float[Tensor, "batch 3 height width"], hidden: Int[Tensor, "batch hidden"]
    ) -> Float[Tensor, "batch hidden values"]:
        """The pixels of the hidden patches in fp32, normalized by patch if so configured."""
        _, columns = self.encoder.grid
        image = torch.arange(len(images), device=images.device).unsqueeze(1)
        patches = _pieces(images.float(), self.patch_size)[image, hidden // columns, hidden % columns].flatten(2)
        if not self.norm_pix_loss:
            return patches
        mean, deviation = _moments(patches)
        return (patches - mean) / deviation

    @torch.no_grad()
    def reconstruct(
        self, images: Float[Tensor, "batch 3 height width"], output: MaeOutput
    ) -> tuple[Float[Tensor, "batch 3 height width"], Float[Tensor, "batch 3 height width"]]:
        """Pictures of what the model saw and of what it made of it.

        A model that predicts normalized patches cannot know their mean and contrast: they are taken from the image.

        Returns:
            The images with hidden patches at 0 (the data set's mean color), and the images with hidden patches
            replaced by the prediction, both normalized as the input is.
        """
        patches, prediction = patchify(images.float(), self.patch_size), output.prediction.float()
        if self.norm_pix_loss:
            mean, deviation = _moments(chosen(patches, output.hidden))
            prediction = prediction * deviation + mean
        hidden = output.hidden.unsqueeze(-1).expand_as(prediction)
        pictures = patches.scatter(1, hidden, 0.0), patches.scatter(1, hidden, prediction)
        masked, pasted = (unpatchify(picture, self.patch_size, self.encoder.grid) for picture in pictures)
        return masked, pasted

    def initialize_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        """Fill the whole (unsharded) parameter in place. Raises ValueError for a name without a rule."""
        if name.startswith("encoder."):
            self.encoder.initialize_parameter(name.removeprefix("encoder."), tensor, generator)
        elif name == "decoder_pos_embed":
            tensor.copy_(sincos_positions(tensor.shape[-1], self.encoder.grid))
        else:
            initialize_by_name(name, tensor, generator)


def split_patches(
    noise: Int[Tensor, "batch patches"], visible: int
) -> tuple[Int[Tensor, "batch visible"], Int[Tensor, "batch hidden"]]:
    """The visible patches, which are those with the smallest noise (He et al. 2021, appendix A.1), and the hidden ones.

    Equal noise is decided by the patch's index, on every device alike.
    """
    order = noise.argsort(dim=1, stable=True)
    return order[:, :visible], order[:, visible:]


def patchify(images: Float[Tensor, "batch 3 height width"], patch_size: int) -> Float[Tensor, "batch patches values"]:
    """Cut images into patches, row by row; within a patch pixel by pixel, the three channels of a pixel together."""
    return _pieces(images, patch_size).flatten(3).flatten(1, 2)


def unpatchify(
    patches: Float[Tensor, "batch patches values"], patch_size: int, grid: tuple[int, int]
) -> Float[Tensor, "batch 3 height width"]:
    """The inverse of `patchify`."""
    rows, columns = grid
    pieces = patches.reshape(len(patches), rows, columns, patch_size, patch_size, 3)
    return pieces.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), 3, rows * patch_size, columns * patch_size)


def _pieces(
    images: Float[Tensor, "batch 3 height width"], patch_size: int
) -> Float[Tensor, "batch rows columns patch_height patch_width 3"]:
    """A view."""
    pieces = images.unflatten(2, (-1, patch_size)).unflatten(4, (-1, patch_size))
    return pieces.permute(0, 2, 4, 3, 5, 1)


def _moments(
    patches: Float[Tensor, "batch patches values"],
) -> tuple[Float[Tensor, "batch patches 1"], Float[Tensor, "batch patches 1"]]:
    """Mean and standard deviation (unbiased, kept off zero) of each patch."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return mean, (variance + 1e-6).sqrt()
