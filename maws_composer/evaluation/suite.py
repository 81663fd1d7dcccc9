"""The steps of evaluate.py: encoder, features, evaluations, results."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.data.columns import LABELS
from maws_composer.data.index import read_index
from maws_composer.data.loader import build_loader_of_each_once
from maws_composer.data.settings import EvalData
from maws_composer.data.sources import evaluation_shards
from maws_composer.evaluation.encoder import encoder_at, load_encoder
from maws_composer.evaluation.extraction import cached_features, digest, encode, extract
from maws_composer.evaluation.features import Evaluate, Features, Result
from maws_composer.evaluation.settings import Evaluation
from maws_composer.models.attention import set_attention_kernel
from maws_composer.models.vit import VisionTransformer
from maws_composer.parallel.agree import on_rank_zero
from maws_composer.parallel.precision import capability, kernel_dtype, torch_device

log = logging.getLogger(__name__)


class Frozen(NamedTuple):
    """An encoder on this rank's device, the digest of its weights, and the address of the checkpoint they are from."""

    encoder: VisionTransformer
    digest: str
    checkpoint: str


def freeze_encoder(run: Evaluation) -> Frozen:
    """Load the encoder, and choose its attention kernels. A collective.

    Which checkpoint of a run is the newest is decided once: the run may go on meanwhile.

    Raises:
        ConfigError: for weights that cannot be loaded, or a kernel that cannot run here.
    """
    checkpoint = on_rank_zero(lambda: encoder_at(run.weights).encoder.address)
    encoder, device = load_encoder(checkpoint, run.image_size, run.patch_size), torch_device()
    try:
        set_attention_kernel(encoder, run.speed.attention, device.type, kernel_dtype(run.precision), capability())
    except ValueError as error:
        raise ConfigError([Problem("speed.attention", str(error))]) from error
    weights = digest(encoder)
    return Frozen(encoder.to(device), weights, checkpoint)


def features_of(name: str, data: EvalData, frozen: Frozen, run: Evaluation) -> Features | None:
    """Features of the images in the section data.<name>, on rank 0; None elsewhere. A collective."""
    key, device = f"data.{name}", torch_device()
    encoder, (size, _) = frozen.encoder, frozen.encoder.patch_embed.img_size
    shards = evaluation_shards(data, key)[0]
    about = {
        "weights": frozen.digest,
        "shards": on_rank_zero(lambda: read_index(shards, data.download_timeout).digest),
        "columns": dict(data.columns),
        "image_size": size,
        "resize": data.resize or size,
        "feature": run.feature,
        "precision": run.precision,
    }

    def compute() -> Features | None:
        loader = build_loader_of_each_once(data, key, size, run, columns=(LABELS,))
        with torch.autocast(device.type, torch.bfloat16, enabled=run.precision == "amp_bf16"):
            return extract(partial(encode, encoder, run.feature), loader, device, f"features of {name} images")

    return cached_features(Path(run.save_folder) / "features", name, about, compute)


def evaluate_all(evaluations: Mapping[str, Evaluate], train: Features, test: Features) -> dict[str, Result]:
    """The evaluations, one after the other, of the images that have a label.

    Raises:
        ConfigError: no image has one.
    """
    for name, features in (("train", train), ("test", test)):
        labelled = len(features.labelled())
        if labelled == 0:
            raise ConfigError([Problem(f"data.{name}", "no image has a label")])
        if labelled < len(features):
            log.info("%s of %s %s images have no label: left out", len(features) - labelled, len(features), name)
    results = {}
    for name, evaluation in evaluations.items():
        results[name] = evaluation(train.labelled(), test.labelled())
        log.info("%s: %s", name, ", ".join(f"{key} {value:.4g}" for key, value in results[name].figures.items()))
    return results
