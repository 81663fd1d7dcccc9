"""What a stage begins with, besides the seed: an earlier stage's encoder, a pretrained text tower.

A checkpoint has all of it, but for a locked encoder: that is taken from `initialize_from` at every start, and is known
by its fingerprint, which `encoder.json` keeps beside each checkpoint.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from composer.models import ComposerModel
from torch import Tensor
from torch.distributed.tensor import DTensor

from maws_composer.checkpoints.resume import ResumePoint
from maws_composer.checkpoints.run_folder import RunFolder
from maws_composer.checkpoints.saving import ENCODER_FILE
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.config.run import Run
from maws_composer.models.text_tower import TextSettings
from maws_composer.parallel.agree import on_rank_zero
from maws_composer.weights.fingerprint import fingerprint
from maws_composer.weights.handover import check_source, encoder_of, hand_over, requires_source
from maws_composer.weights.pretrained_text import load_pretrained_text, text_weight_problems


def begin(stage: ComposerModel, run: Run, folder: RunFolder, resume_from: ResumePoint | None) -> None:
    """Fill those parameters of a sharded stage that neither its seed nor the checkpoint determines. A collective.

    Args:
        stage: sharded, with real parameters.
        run: its `initialize_from`, and its text tower.
        folder: where the identity of a locked encoder is written down.
        resume_from: the checkpoint that will be loaded.

    Raises:
        ConfigError: on every rank; see `hand_over` and `load_pretrained_text`, and where a run that resumes had another
            locked encoder.
    """
    is_left_out = requires_source(run)
    whole = run.initialize_whole and resume_from is None
    if run.initialize_from and (whole or (encoder_of(stage) and (resume_from is None or is_left_out))):
        hand_over(run.initialize_from, stage, whole, run.initialize_resize)
    if run.initialize_from and is_left_out:
        now = {"source": run.initialize_from, "fingerprint": _fingerprint(stage)}
        if resume_from is not None:
            _require_same(json.loads((resume_from.folder / ENCODER_FILE).read_text()), now)
        on_rank_zero(lambda: _write(folder.local / ENCODER_FILE, now))
    settings = run.model.get("text")
    if resume_from is None and not whole and isinstance(settings, TextSettings) and settings.pretrained:
        load_pretrained_text(settings, stage.clip.text)


def check_beginning(run: Run) -> list[Problem]:
    """Whether what `begin` asks for is there, and fits."""
    settings = run.model.get("text")
    problems = text_weight_problems(settings) if isinstance(settings, TextSettings) else []
    if requires_source(run) and not run.initialize_from:
        message = "a locked image tower stays what it begins as; name the run, checkpoint or file with its weights"
        return [*problems, Problem("initialize_from", message)]
    return [*problems, *check_source(run)]


def _fingerprint(stage: ComposerModel) -> str:
    parameters = encoder_of(stage)
    return fingerprint(parameters, lambda name: _whole(parameters[name]))


@torch.no_grad()
def _whole(parameter: Tensor) -> Tensor:
    return (parameter.full_tensor() if isinstance(parameter, DTensor) else parameter).cpu()


def _require_same(before: dict[str, Any], now: dict[str, Any]) -> None:
    if before["fingerprint"] == now["fingerprint"]:
        return
    message = (
        f"{now['source']} has another encoder ({now['fingerprint'][:12]}) than this run was trained with, "
        f"which came from {before['source']} ({before['fingerprint'][:12]}); name one with the same weights"
    )
    raise ConfigError([Problem("initialize_from", message)])


def _write(path: Path, about: dict[str, Any]) -> None:
    path.write_text(json.dumps(about, indent=2) + "\n")
