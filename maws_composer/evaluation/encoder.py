"""The encoder that is evaluated."""

from __future__ import annotations

import logging
from dataclasses import replace

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.models.vit import VisionTransformer
from maws_composer.weights.files import SourceError
from maws_composer.weights.resizing import resized
from maws_composer.weights.shapes import disagreement
from maws_composer.weights.trained import Trained, find_trained

log = logging.getLogger(__name__)


def encoder_at(weights: str) -> Trained:
    """Look into a run, a checkpoint, or other people's weights, without reading them.

    Raises:
        ConfigError: there is no complete checkpoint, or no encoder.
    """
    try:
        return find_trained(weights)
    except SourceError as error:
        raise ConfigError([Problem("weights", str(error))]) from error


def load_encoder(weights: str, image_size: int | None = None, patch_size: int | None = None) -> VisionTransformer:
    """The encoder at an address, on the CPU, ready to evaluate.

    Args:
        weights: a run, whose newest checkpoint is taken, a checkpoint, or other people's weights (see `sources`).
        image_size: position embeddings are resampled to it. None: that of the weights.
        patch_size: the patch embedding is resampled to it. None: that of the weights.

    Raises:
        ConfigError: see `encoder_at`; or it has tensors that we have not.
    """
    trained = encoder_at(weights)
    size = replace(trained.size, patch_size=patch_size or trained.size.patch_size)
    encoder = VisionTransformer(
        size,
        image_size or trained.image_size,
        qk_norm=trained.encoder.has_qk_norm,
        mean_pooling=trained.encoder.averages_patches,
    )
    wanted = {name: tensor.shape for name, tensor in encoder.state_dict().items()}
    tensors, changes = resized(trained.encoder, wanted)
    if changes:
        log.info("%s is resized: %s", weights, ", ".join(changes))
    if told := disagreement(weights, tensors.shapes, wanted):
        raise ConfigError([Problem("weights", told)])
    encoder.load_state_dict({name: tensors.read(name) for name in wanted})
    return encoder.eval()
