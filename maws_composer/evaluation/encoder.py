"""The encoder that is evaluated: of a run, a checkpoint, an export or a released file.

Tensors say how wide and deep a ViT is, and for images of which size, but not how many heads it has. That is in
`config.yaml` of a run, in `config.json` of an export; without either, the registered size of that shape has it.
"""

from __future__ import annotations

import json
import math

import torch
import yaml
from timm.layers import resample_abs_pos_embed

from maws_composer.checkpoints.run_folder import open_path
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.models.sizes import ViTSize
from maws_composer.models.vit import VisionTransformer
from maws_composer.registry import lookup, names
from maws_composer.weights.sources import FIRST, Encoder, SourceError, open_encoder
from maws_composer.weights.trained import Trained

_HEADS = ("num_heads", "num_attention_heads")  # in timm's config.json, in Hugging Face's


def encoder_at(weights: str) -> Trained:
    """Look into weights, without reading them.

    Args:
        weights: see `weights.sources`; local or in object storage.

    Raises:
        ConfigError: there is no encoder, nothing says how many heads it has, or it is not our ViT.
    """
    try:
        encoder = open_encoder(weights)
        size = _size(encoder)
    except SourceError as error:
        raise ConfigError([Problem("weights", str(error))]) from error
    image_size = math.isqrt(encoder.shapes["pos_embed"][1] - 1) * size.patch_size
    with torch.device("meta"):
        ours = VisionTransformer(size, image_size, qk_norm=encoder.has_qk_norm).state_dict()
    if different := sorted(ours.keys() ^ encoder.shapes.keys()):
        message = f"{encoder.address} is not our ViT, which differs in {', '.join(different[:4])}"
        raise ConfigError([Problem("weights", message)])
    return Trained(encoder, size, image_size)


def load_encoder(weights: str, image_size: int | None = None) -> VisionTransformer:
    """The encoder of a run's newest checkpoint, or of other weights, on the CPU, ready to evaluate.

    Args:
        weights: see `encoder_at`.
        image_size: position embeddings are interpolated to it, bicubic. None: that of the weights.

    Raises:
        ConfigError: see `encoder_at`.
    """
    trained = encoder_at(weights)
    encoder = VisionTransformer(trained.size, image_size or trained.image_size, qk_norm=trained.encoder.has_qk_norm)
    tensors = {name: trained.encoder.read(name) for name in trained.encoder.shapes}
    grid = trained.size.grid(trained.image_size)
    tensors["pos_embed"] = resample_abs_pos_embed(
        tensors["pos_embed"], list(encoder.grid), [grid, grid], antialias=False
    )
    encoder.load_state_dict(tensors)
    return encoder.eval()


def _size(encoder: Encoder) -> ViTSize:
    """Raises SourceError: nothing says how many heads there are, or a number that cannot be."""
    width, _, patch_size, _ = encoder.shapes[FIRST]
    depth = len({name.split(".")[1] for name in encoder.shapes if name.startswith("blocks.")})
    shape = (width, depth, patch_size)
    told = f"{encoder.address} is {width} wide, {depth} deep, with patches of {patch_size}"
    heads = _heads_beside(encoder.address) or _registered_heads(shape)
    if len(heads) != 1:
        count = f"{len(heads)} numbers of heads are" if heads else "no number of heads is"
        raise SourceError(f"{told}: {count} known for that; register its size, and name the file in code_paths")
    try:
        return ViTSize(width, depth, heads.pop(), patch_size)
    except ValueError as error:
        raise SourceError(f"{told}: {error}") from error


def _heads_beside(address: str) -> set[int]:
    """What the configuration in the folder of the weights says; nothing of a file that lies alone.

    Raises SourceError: it cannot be read.
    """
    path = open_path(address)
    if path.suffix and path.name != "model.safetensors":
        return set()
    folder = path.parent if path.suffix else path
    try:
        if (folder / "config.yaml").exists():
            name = yaml.safe_load((folder / "config.yaml").read_text())["model"].get("size")
            return {lookup("size", name).builder.heads} if name else set()
        if (folder / "config.json").exists():
            config = json.loads((folder / "config.json").read_text())
            config |= config.get("model_args", {})
            return {config[key] for key in _HEADS if key in config}
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise SourceError(f"the configuration in {folder} is damaged: {error!r}") from error
    return set()


def _registered_heads(shape: tuple[int, int, int]) -> set[int]:
    sizes = [lookup("size", name).builder for name in names("size")]
    return {size.heads for size in sizes if (size.width, size.depth, size.patch_size) == shape}
