"""Of which image tower the image embeddings are that a run reads."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.config.run import Run
from maws_composer.data.columns import IMAGE_EMBEDDING
from maws_composer.data.embeddings import embedding_problems, width_problems
from maws_composer.data.index import read_dataset_file
from maws_composer.data.sources import evaluation_shards, training_shards
from maws_composer.registry import lookup
from maws_composer.weights.fingerprint import fingerprint
from maws_composer.weights.shapes import sizes_of_shape, vit_shape
from maws_composer.weights.sources import Encoder, SourceError, open_encoder

log = logging.getLogger(__name__)


def check_embeddings(run: Run, columns: Sequence[str]) -> list[Problem]:
    """Compare them with the model and with `initialize_from`.

    All of the encoder there is read for it, one tensor after the other, unless its shape or theirs is wrong already.

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
        if problems := [*_size_problems(encoder, run.model["size"]), *_width_problems(run)]:
            return problems
        log.info("reading the image tower at %s for its fingerprint; a large one takes minutes", encoder.address)
        identity = fingerprint(encoder.shapes, encoder.read)
    except SourceError as error:
        return [Problem("initialize_from", str(error))]
    train, evaluation = run.data.train, run.data.eval
    sources = [*training_shards(train), *(evaluation_shards(evaluation) if evaluation is not None else [])]
    return embedding_problems(sources, encoder.address, identity, run.model["image_size"], train.download_timeout)


def encoder_of_embeddings(run: Run) -> str:
    """The fingerprint that `dataset.json` of the training data names, and `check_embeddings` has compared.

    Raises:
        ConfigError: it names none.
    """
    source = training_shards(run.data.train)[0]
    dataset = read_dataset_file(source, run.data.train.download_timeout)
    if dataset is None or dataset.encoder is None:
        message = f"{source.address} does not say whose embeddings it has; make them with `maws-composer embed`"
        raise ConfigError([Problem(source.where, message)])
    return dataset.encoder


def _size_problems(encoder: Encoder, name: str) -> list[Problem]:
    size, (width, depth, patch) = lookup("size", name).builder, vit_shape(encoder.shapes)
    if (width, depth, patch) == (size.width, size.depth, size.patch_size):
        return []
    is_it = " or ".join(sizes_of_shape(encoder.shapes)) or f"{width} wide, {depth} deep, with patches of {patch}"
    return [Problem("model.size", f"{name} is not what initialize_from has: {encoder.address} is {is_it}")]


def _width_problems(run: Run) -> list[Problem]:
    width = lookup("size", run.model["size"]).builder.width
    train, evaluation = run.data.train, run.data.eval
    problems = width_problems(training_shards(train), train, width)
    if evaluation is not None:
        problems += width_problems(evaluation_shards(evaluation), evaluation, width)
    return problems
