"""A model's weights at an address, whatever lies there, by the names of our models.

    s3://bucket/run, runs/mae                 a run: its newest complete checkpoint
    runs/mae/checkpoints/ep0-ba800            a checkpoint, written by any number of ranks
    runs/mae#ema                              of a run or a checkpoint, the moving average of its weights
    exported/, model.safetensors              our exports, timm's ViTs, or Hugging Face's; in .pt, .pth or .bin too
    mae_pretrain_vit_base.pth, vit_2b14.pt    released weights of MAE, MAWS and MAWS-CLIP, fine-tuned ones too

Locally, or in object storage. See `files` for what is read of them, and `layouts` for the names.
"""

from __future__ import annotations

from dataclasses import dataclass

from maws_composer.weights.files import SourceError, Weights, open_weights
from maws_composer.weights.layouts import FIRST, layout_of
from maws_composer.weights.parts import ENCODER
from maws_composer.weights.pixel_values import for_our_pixels
from maws_composer.weights.translation import translated


@dataclass(frozen=True, kw_only=True)
class Encoder(Weights):
    """The tensors of a ViT, by timm's names.

    Attributes:
        left: names of the other tensors that lie with them, in our models.
    """

    left: list[str]

    @property
    def averages_patches(self) -> bool:
        """Its feature is not the class token."""
        return "fc_norm.weight" in self.shapes


def open_model(address: str) -> Weights:
    """Everything of the one model at `address`, by the names that it has in ours, for images normalized as ours.

    Raises:
        SourceError: it is not readable, incomplete, asks to run code, or has no model that we know, or several.
    """
    weights = open_weights(address)
    try:
        layout = layout_of(weights.shapes)
    except ValueError as error:
        raise SourceError(f"{weights.address} {error}") from error
    if layout is None:
        some = ", ".join(list(weights.shapes)[:4]) or "nothing"
        raise SourceError(f"{weights.address} has no ViT with the names of timm or Hugging Face; it has {some} ...")
    return for_our_pixels(translated(weights, layout.recipes))


def open_encoder(address: str) -> Encoder:
    """Find the one encoder among the weights at `address`.

    Raises:
        SourceError: see open_model.
    """
    model = open_model(address)
    names = {name: name.removeprefix("encoder.") for name in model.shapes if name.startswith("encoder.")}
    inside = {name: short for name, short in names.items() if ENCODER.fullmatch(short)}
    if FIRST not in inside.values():
        began_with = model.config.get("initialize_from")
        hint = f"; its run took one from {began_with}" if began_with else ""
        raise SourceError(f"{model.address} holds no encoder{hint}")
    return Encoder(
        address=model.address,
        file_format=model.file_format,
        shapes={short: model.shapes[name] for name, short in inside.items()},
        dtypes={short: model.dtypes[name] for name, short in inside.items()},
        read=lambda name: model.read(f"encoder.{name}"),
        config=model.config,
        beside=model.beside,
        left=[name for name in model.shapes if name not in inside],
    )
