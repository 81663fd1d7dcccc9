"""`maws-composer probe`: has the encoder of a run learned something that a random one has not?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float, Int
from streaming import LocalDataset
from torch import Tensor
from tqdm import tqdm

from maws_composer.checkpoints.completeness import newest_complete
from maws_composer.checkpoints.weights import read_weights
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.data.decode import decode
from maws_composer.data.transforms import resize_and_crop
from maws_composer.evaluation.ridge_probe import ProbeResult, ridge_probe
from maws_composer.models.initialization import initialize
from maws_composer.models.vit import VisionTransformer
from maws_composer.registry import lookup
from maws_composer.stages.pixels import normalize

_BATCH = 256


def probe(run_folder: Path, train: str, test: str, min_images: int) -> dict[str, ProbeResult]:
    """Ridge probes of hashtags on the class token's feature, for a random encoder and for the run's.

    The figures go to <run_folder>/figures.json, from where the report takes them.

    Args:
        run_folder: local folder of a run.
        train, test: local MDS folders with the columns `image` and `hashtags`.
        min_images: hashtags on fewer training images are left out.

    Raises:
        ConfigError: if the run has no complete checkpoint, or the data no such hashtags.
    """
    config = yaml.safe_load((run_folder / "config.yaml").read_text())
    checkpoint, _ = newest_complete(run_folder / "checkpoints")
    if checkpoint is None:
        raise ConfigError([Problem(str(run_folder), "has no complete checkpoint; train it first")])
    image_size = config["model"]["image_size"]
    train_set, test_set = _Tagged(train, image_size), _Tagged(test, image_size)
    labels = train_set.frequent(min_images)
    if not labels:
        raise ConfigError([Problem(train, f"no hashtag is on {min_images} images or more")])
    results = {}
    for name, encoder in (("random encoder", _random_encoder(config)), ("MAE encoder", _encoder(config, checkpoint))):
        results[name] = ridge_probe(
            train_set.features(encoder, name), train_set.targets(labels),
            test_set.features(encoder, name), test_set.targets(labels),
        )  # fmt: skip
    _write_figures(run_folder, results, len(train_set.tags), len(test_set.tags))
    return results
