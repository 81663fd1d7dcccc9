"""What a stage begins with, besides the seed: an earlier stage's encoder, a pretrained text tower.

A checkpoint has all of it, but for a locked encoder: that is taken from `initialize_from` at every start, or its image
embeddings are read, and `beside` says how it is known.
"""

from __future__ import annotations

import torch
from composer.models import ComposerModel

from maws_composer.checkpoints.resume import ResumePoint
from maws_composer.checkpoints.run_folder import RunFolder
from maws_composer.config.problems import Problem
from maws_composer.config.run import Run
from maws_composer.models.text_tower import TextSettings
from maws_composer.stages.text import build_text
from maws_composer.weights.beside import keep_beside
from maws_composer.weights.handover import check_source, encoder_of, hand_over, requires_source, will_resume
from maws_composer.weights.pretrained_text import load_pretrained_text, text_weight_problems


def begin(stage: ComposerModel, run: Run, folder: RunFolder, resume_from: ResumePoint | None) -> None:
    """Fill those parameters of a sharded stage that neither its seed nor the checkpoint determines. A collective.

    Args:
        stage: sharded, with real parameters.
        run: its `initialize_from`, and its text tower.
        folder: where is written down what checkpoints do not have in them.
        resume_from: the checkpoint that will be loaded.

    Raises:
        ConfigError: on every rank; see `hand_over`, `keep_beside` and `load_pretrained_text`.
    """
    whole = run.initialize_whole and resume_from is None
    if run.initialize_from and (whole or (encoder_of(stage) and (resume_from is None or requires_source(run)))):
        hand_over(run.initialize_from, stage, whole, run.initialize_resize)
    keep_beside(stage, run, folder, resume_from)
    settings = run.model.get("text")
    if resume_from is None and not whole and isinstance(settings, TextSettings) and settings.pretrained:
        load_pretrained_text(settings, stage.clip.text)


def check_beginning(run: Run) -> list[Problem]:
    """Whether what `begin` asks for is there, and fits."""
    problems = _text_problems(run)
    if requires_source(run) and not run.initialize_from:
        message = "a locked image tower stays what it begins as; name the run, checkpoint or file with its weights"
        return [*problems, Problem("initialize_from", message)]
    return problems or check_source(run)


def _text_problems(run: Run) -> list[Problem]:
    settings = run.model.get("text")
    if not isinstance(settings, TextSettings):
        return []
    try:
        with torch.device("meta"):
            build_text(settings)
    except ValueError as error:
        return [Problem("model", str(error))]
    is_needed = settings.pretrained and not run.initialize_whole and not will_resume(run)
    return text_weight_problems(settings.name) if is_needed else []
