"""The encoder that is evaluated."""

from __future__ import annotations

import logging
from dataclasses import replace

import torch

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.models.vit import VisionTransformer
from maws_composer.weights.files import SourceError
from maws_composer.weights.resizing import resized
from maws_composer.weights.shapes import disagreement
from maws_composer.weights.trained import Trained, find_trained

log = logging.getLogger(__name__)


def encoder_at(weights: str) -> Trained:
    """Look into weights, without reading them.

    Args:
        weights: a run, whose newest checkpoint is taken, a checkpoint, or other people's weights: see `sources`.

    Raises:
        ConfigError: there is no encoder, nothing says how many heads it has, or it is not our ViT.
    """
    try:
        trained = find_trained(weights)
    except SourceError as error:
        raise ConfigError([Problem("weights", str(error))]) from error
    with torch.device("meta"):
        ours = {name: tensor.shape for name, tensor in _shaped_like(trained).state_dict().items()}
    if told := disagreement(trained.encoder.address, trained.encoder.shapes, ours):
        raise ConfigError([Problem("weights", told)])
    return trained


def load_encoder(weights: str, image_size: int | None = None, patch_size: int | None = None) -> VisionTransformer:
    """The encoder at an address, on the CPU, ready to evaluate.

    Args:
        weights: see `encoder_at`.
        image_size: position embeddings are resampled to it. None: that of the weights.
        patch_size: the patch embedding is resampled to it. None: that of the weights.

    Raises:
        ConfigError: see `encoder_at`.
    """
    trained = encoder_at(weights)
    encoder = _shaped_like(trained, image_size, patch_size)
    tensors, changes = resized(trained.encoder, {name: tensor.shape for name, tensor in encoder.state_dict().items()})
    if changes:
        log.info("%s is resized: %s", weights, ", ".join(changes))
    encoder.load_state_dict({name: tensors.read(name) for name in tensors.shapes})
    return encoder.eval()


def _shaped_like(trained: Trained, image_size: int | None = None, patch_size: int | None = None) -> VisionTransformer:
    return VisionTransformer(
        replace(trained.size, patch_size=patch_size or trained.size.patch_size),
        image_size or trained.image_size,
        qk_norm=trained.encoder.has_qk_norm,
        mean_pooling=trained.encoder.averages_patches,
    )
