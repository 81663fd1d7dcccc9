"""An encoder and its shape, wherever it comes from."""

from __future__ import annotations

import logging
from typing import NamedTuple

from maws_composer.models.attention import LAYER_NORM_EPS
from maws_composer.models.sizes import ViTSize
from maws_composer.registry import lookup
from maws_composer.weights.shapes import image_size, sizes_of_shape, vit_shape
from maws_composer.weights.sources import Encoder, SourceError, open_encoder

log = logging.getLogger(__name__)


class Trained(NamedTuple):
    """What somebody's training left behind.

    Attributes:
        encoder: its tensors, each of them read when asked for.
        size: its shape, which says how many heads it has.
        image_size: side of its images in pixels.
    """

    encoder: Encoder
    size: ViTSize
    image_size: int


def find_trained(address: str) -> Trained:
    """Look into a run, a checkpoint, a file or a folder, local or in object storage, without reading weights.

    Raises:
        SourceError: there is no encoder, or nothing says how many heads it has.
        ConfigError: its size is not registered.
    """
    encoder = open_encoder(address)
    size = _size_of(encoder)
    _check_config(encoder)
    return Trained(encoder, size, image_size(encoder.shapes))


def _size_of(encoder: Encoder) -> ViTSize:
    """Tensors tell everything but the number of heads; a configuration beside them does, or the registered sizes do."""
    width, depth, patch_size = vit_shape(encoder.shapes)
    told = f"{encoder.address} is {width} wide, {depth} deep, with patches of {patch_size}"
    heads = _heads_in(encoder) or {size.heads for size in sizes_of_shape(encoder.shapes).values()}
    if len(heads) != 1:
        count = f"{len(heads)} numbers of heads are" if heads else "no number of heads is"
        raise SourceError(f"{told}: {count} known for that; register its size, and name the file in code_paths")
    try:
        return ViTSize(width, depth, heads.pop(), patch_size)
    except ValueError as error:
        raise SourceError(f"{told}: {error}") from error


def _heads_in(encoder: Encoder) -> set[int]:
    """What the configuration beside the weights says: of our runs, of timm, or of Hugging Face."""
    config = encoder.config
    try:
        if "stage" in config:
            name = config["model"].get("size")
            return {lookup("size", name).builder.heads} if name else set()
        found = config.get("num_attention_heads") or config.get("model_args", {}).get("num_heads")
    except (KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"the configuration beside {encoder.address} is damaged: {error!r}") from error
    return {int(found)} if found else set()


def _check_config(encoder: Encoder) -> None:
    """What a config.json asks for, and this house does otherwise."""
    config = encoder.config
    if config.get("hidden_act", "gelu") != "gelu":
        raise SourceError(f"{encoder.address} has the activation {config['hidden_act']}; ours is gelu")
    eps = config.get("layer_norm_eps", LAYER_NORM_EPS)
    if eps != LAYER_NORM_EPS:
        log.warning("%s: config.json has layer_norm_eps %s; ours is %s", encoder.address, eps, LAYER_NORM_EPS)
