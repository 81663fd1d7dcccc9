"""Whether the image embeddings that a run reads are those of its image tower."""

from __future__ import annotations

from collections.abc import Sequence

from maws_composer.config.problems import Problem
from maws_composer.config.run import Run
from maws_composer.data.columns import IMAGE_EMBEDDING
from maws_composer.data.embeddings import embedding_problems
from maws_composer.data.sources import evaluation_shards, training_shards
from maws_composer.weights.fingerprint import fingerprint
from maws_composer.weights.sources import SourceError, open_encoder


def check_embeddings(run: Run, columns: Sequence[str]) -> list[Problem]:
    """Compare them with `initialize_from`, all of whose encoder is read for it, one tensor after the other.

    Args:
        run: its data, and the source of its image tower.
        columns: that its stage reads.
    """
    if IMAGE_EMBEDDING not in columns:
        return []
    if not run.initialize_from:
        message = "name the run, checkpoint or file with the image tower that the embeddings were computed with"
        return [Problem("initialize_from", message)]
    try:
        encoder = open_encoder(run.initialize_from)
        identity = fingerprint(encoder.shapes, encoder.read)
    except SourceError as error:
        return [Problem("initialize_from", str(error))]
    train, evaluation = run.data.train, run.data.eval
    sources = [*training_shards(train), *(evaluation_shards(evaluation) if evaluation is not None else [])]
    return embedding_problems(sources, encoder.address, identity, run.model["image_size"], train.download_timeout)
