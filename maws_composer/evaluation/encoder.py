"""The encoder that is evaluated."""

from __future__ import annotations

from timm.layers import resample_abs_pos_embed

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.models.vit import VisionTransformer
from maws_composer.weights.sources import SourceError
from maws_composer.weights.trained import Trained, find_trained


def encoder_at(weights: str) -> Trained:
    """Look into a run or a checkpoint, without reading weights.

    Raises:
        ConfigError: there is no complete checkpoint, or no encoder in it.
    """
    try:
        return find_trained(weights)
    except SourceError as error:
        raise ConfigError([Problem("weights", str(error))]) from error


def load_encoder(weights: str, image_size: int | None = None) -> VisionTransformer:
    """The encoder of a checkpoint, or of a run's newest, on the CPU, ready to evaluate.

    Args:
        weights: a run or a checkpoint, local or in object storage.
        image_size: position embeddings are interpolated to it, bicubic. None: the run's.

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
