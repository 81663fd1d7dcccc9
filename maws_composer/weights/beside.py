"""What checkpoints belong to and do not have in them is written beside them, and stays the same.

`encoder.json` says where a locked image tower is from, and its fingerprint; `text.json` which tokenizer and which
configuration a text tower has.
"""

from __future__ import annotations

import json
import logging
from typing import Any

import torch
import torch.distributed as dist
from composer.models import ComposerModel
from torch import Tensor
from torch.distributed.tensor import DTensor

from maws_composer.checkpoints.resume import ResumePoint
from maws_composer.checkpoints.run_folder import RunFolder
from maws_composer.checkpoints.saving import ENCODER_FILE, TEXT_FILE
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.config.run import Run
from maws_composer.data.columns import IMAGE_EMBEDDING
from maws_composer.models.text_tower import TextSettings
from maws_composer.parallel.agree import on_rank_zero
from maws_composer.weights.embedded import encoder_of_embeddings
from maws_composer.weights.fingerprint import fingerprint
from maws_composer.weights.handover import encoder_of, requires_source
from maws_composer.weights.text_identity import text_difference, text_identity

log = logging.getLogger(__name__)

_ANEW = "or begin another run with initialize_from=<this run> initialize_whole=true"


def keep_beside(stage: ComposerModel, run: Run, folder: RunFolder, resume_from: ResumePoint | None) -> None:
    """Write it down for the checkpoints to come, and compare it with what the one that is resumed had. A collective.

    Args:
        stage: with its image tower filled.
        run: the source of that tower, or of its embeddings; and its text tower.
        folder: where it is written.
        resume_from: the checkpoint that will be loaded.

    Raises:
        ConfigError: on every rank; it is another now.
    """
    identity = _fingerprint_outside(stage, run)
    encoder = {"source": run.initialize_from, "fingerprint": identity} if identity else None
    on_rank_zero(lambda: _keep_encoder(encoder, folder, resume_from))
    text = run.model.get("text")
    if isinstance(text, TextSettings):
        on_rank_zero(lambda: _keep_text(text, folder, resume_from))


def _fingerprint_outside(stage: ComposerModel, run: Run) -> str | None:
    """Of the encoder that checkpoints leave out; None if they have it. A collective."""
    if IMAGE_EMBEDDING in getattr(stage, "columns", ()):
        return on_rank_zero(lambda: encoder_of_embeddings(run))
    return _fingerprint(encoder_of(stage)) if run.initialize_from and requires_source(run) else None


def _fingerprint(parameters: dict[str, Tensor]) -> str:
    """Rank 0 hashes each tensor when all have gathered it."""
    if dist.get_rank() == 0:
        total = sum(parameter.numel() * parameter.element_size() for parameter in parameters.values())
        log.info("taking the fingerprint of the locked image tower, %.1f GB", total / 1e9)
        found = fingerprint(parameters, lambda name: _whole(parameters[name]).cpu())
        return on_rank_zero(lambda: found)
    for name in sorted(parameters):  # the order in which rank 0 asks for them
        _whole(parameters[name])
    return on_rank_zero(str)


@torch.no_grad()
def _whole(parameter: Tensor) -> Tensor:
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


def _keep_encoder(now: dict[str, Any] | None, folder: RunFolder, resume_from: ResumePoint | None) -> None:
    """Write down which encoder the checkpoints will leave out, if they do; it has to be the one of those before."""
    file = folder.local / ENCODER_FILE
    if resume_from is not None:
        kept = resume_from.folder / ENCODER_FILE
        _require_same(json.loads(kept.read_text()) if kept.exists() else None, now, resume_from.folder.name)
    if now is None:
        file.unlink(missing_ok=True)  # of a start that came to nothing
    else:
        file.write_text(json.dumps(now, indent=2) + "\n")


def _keep_text(settings: TextSettings, folder: RunFolder, resume_from: ResumePoint | None) -> None:
    """The tokenizer and configuration have to be those of the checkpoint."""
    now = text_identity(settings)
    kept = None if resume_from is None else resume_from.folder / TEXT_FILE
    if kept is not None and kept.exists() and (told := text_difference(json.loads(kept.read_text()), now)):
        raise ConfigError([Problem("model.text.name", told)])
    (folder.local / TEXT_FILE).write_text(json.dumps(now, indent=2) + "\n")


def _require_same(before: dict[str, Any] | None, now: dict[str, Any] | None, checkpoint: str) -> None:
    if before == now or (before and now and before["fingerprint"] == now["fingerprint"]):
        return
    if before is None:
        message = f"{checkpoint} has an image tower, which was trained with it; set it back to false"
        raise ConfigError([Problem("model.lock_image_tower", f"{message}, {_ANEW}")])
    if now is None:
        message = f"{checkpoint} has no image tower, since it was locked; set it back to true"
        raise ConfigError([Problem("model.lock_image_tower", f"{message}, {_ANEW}")])
    message = (
        f"{now['source']} has another encoder ({now['fingerprint'][:12]}) than this run was trained with, "
        f"which came from {before['source']} ({before['fingerprint'][:12]}); name one with the same weights"
    )
    raise ConfigError([Problem("initialize_from", message)])
