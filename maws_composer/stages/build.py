"""From a run's configuration to its stage, on the meta device."""

from __future__ import annotations

import torch
from composer.core import Callback
from composer.models import ComposerModel
from torch import nn

from maws_composer.config.build import build
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.config.run import Run
from maws_composer.data.columns import IMAGE_EMBEDDING
from maws_composer.models.attention import set_attention_kernel
from maws_composer.models.vit import VisionTransformer
from maws_composer.parallel.precision import capability, kernel_dtype, torch_device
from maws_composer.planning.plan import columns_of
from maws_composer.registry import lookup


def build_stage(run: Run) -> ComposerModel:
    """Shapes only: nothing is allocated before the stage is sharded. Its attention kernels are chosen.

    Raises:
        ConfigError: for a kernel that cannot run here.
    """
    with torch.device("meta"):
        stage: ComposerModel = build(lookup("stage", run.stage), run.model, run)
    try:
        set_attention_kernel(stage, run.speed.attention, torch_device().type, kernel_dtype(run.precision), capability())
    except ValueError as error:
        raise ConfigError([Problem("speed.attention", str(error))]) from error
    return stage


def encoder_of(stage: nn.Module, asker: str) -> VisionTransformer:
    """The stage's one encoder.

    Raises:
        ConfigError: it has none, or several; `asker` is the key of what needs one.
    """
    encoders = [part for part in stage.modules() if isinstance(part, VisionTransformer)]
    if len(encoders) != 1:
        raise ConfigError([Problem(asker, f"this stage has {len(encoders)} encoders, expected one; remove it")])
    return encoders[0]


def no_encoder(run: Run, asker: str) -> list[Problem]:
    """The same, as far as it can be foreseen."""
    if IMAGE_EMBEDDING in columns_of(run):
        return [Problem(asker, "this stage reads image embeddings and runs no encoder; remove it")]
    return []


def callbacks_of(stage: ComposerModel) -> list[Callback]:
    """What of a stage's step lies outside of forward and loss."""
    return stage.callbacks() if hasattr(stage, "callbacks") else []
