"""The encoder of a training run, whatever its stage is."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml
from timm.layers import resample_abs_pos_embed

from maws_composer.checkpoints.completeness import newest_complete
from maws_composer.checkpoints.safe_reading import SafeReader
from maws_composer.checkpoints.weights import read_weights
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.models.sizes import ViTSize
from maws_composer.models.vit import VisionTransformer
from maws_composer.registry import load_plugins, lookup

_STEM, _MODEL = "patch_embed.proj.weight", "state.model."


class Trained(NamedTuple):
    """What a run left behind.

    Attributes:
        checkpoint: the newest that is complete.
        size: shape of its encoder.
        image_size: that it was trained at.
        qk_norm: whether its attention has it.
    """

    checkpoint: Path
    size: ViTSize
    image_size: int
    qk_norm: bool


def find_trained(weights: str) -> Trained:
    """Look into the local folder of a run, without reading weights.

    Raises:
        ConfigError: it is no run, or has no complete checkpoint.
    """
    config_file = Path(weights, "config.yaml")
    if not config_file.is_file():
        message = f"{weights} has no config.yaml; name a run's local folder, which is train.py's save_folder"
        raise ConfigError([Problem("weights", message)])
    config: dict[str, Any] = yaml.safe_load(config_file.read_text())
    if problems := load_plugins(config["code_paths"]):
        raise ConfigError(problems)
    checkpoint, _ = newest_complete(Path(weights, "checkpoints"))
    if checkpoint is None:
        raise ConfigError([Problem("weights", f"{weights} has no complete checkpoint; train it first")])
    model = config["model"]
    size: ViTSize = lookup("size", model["size"]).builder
    return Trained(Path(checkpoint.folder), size, model["image_size"], model.get("qk_norm", False))


def load_encoder(weights: str, image_size: int | None = None) -> VisionTransformer:
    """The encoder of the newest checkpoint of the run at `weights`, on the CPU, ready to evaluate.

    Args:
        weights: local folder of a run.
        image_size: position embeddings are interpolated to it, bicubic. None: the run's.

    Raises:
        ConfigError: see `find_trained`; or the checkpoint has no encoder, or several.
    """
    trained = find_trained(weights)
    encoder = VisionTransformer(trained.size, image_size or trained.image_size, qk_norm=trained.qk_norm)
    tensors = read_weights(trained.checkpoint, _encoder_prefix(trained.checkpoint))
    grid = trained.size.grid(trained.image_size)
    tensors["pos_embed"] = resample_abs_pos_embed(
        tensors["pos_embed"], list(encoder.grid), [grid, grid], antialias=False
    )
    encoder.load_state_dict(tensors)
    return encoder.eval()


def _encoder_prefix(checkpoint: Path) -> str:
    names = SafeReader(checkpoint).read_metadata().state_dict_metadata
    stems = [name for name in names if name.startswith(_MODEL) and name.endswith(_STEM)]
    if len(stems) != 1:
        raise ConfigError([Problem("weights", f"{checkpoint} has {len(stems)} tensors named *{_STEM}, expected one")])
    return stems[0].removeprefix(_MODEL).removesuffix(_STEM)
