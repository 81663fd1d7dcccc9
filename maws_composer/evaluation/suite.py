"""The steps of evaluate.py: encoder, features, evaluations, results."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from composer.core import DataSpec

from maws_composer.config.build import build
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.data.class_preflight import known_classes
from maws_composer.data.columns import CAPTIONS_FILE, LABELS
from maws_composer.data.index import read_bytes, read_index
from maws_composer.data.loader import Reads, build_loader_of_each_once
from maws_composer.data.settings import EvalData
from maws_composer.data.sources import Shards, evaluation_shards
from maws_composer.evaluation.caption_retrieval import read_captions
from maws_composer.evaluation.encoder import load_encoder
from maws_composer.evaluation.extraction import cached_features, digest, encode, extract
from maws_composer.evaluation.features import Evaluate, EvaluateWithText, Extracted, Result, Towers, Words
from maws_composer.evaluation.settings import Evaluation
from maws_composer.evaluation.towers import check_image_tower, find_image_text, load_towers, places_of
from maws_composer.models.attention import set_attention_kernel
from maws_composer.models.contrastive import exact_products
from maws_composer.models.vit import VisionTransformer
from maws_composer.outages import is_no_outage
from maws_composer.parallel.agree import on_rank_zero
from maws_composer.parallel.precision import capability, kernel_dtype, torch_device
from maws_composer.registry import lookup
from maws_composer.resilience.progress import limited_wait, stepped
from maws_composer.resilience.storage import wait_for_storage

Read = TypeVar("Read")
log = logging.getLogger(__name__)


class Frozen(NamedTuple):
    """What is evaluated.

    Attributes:
        encoder: on this rank's device.
        digest: of the encoder's weights.
        checkpoint: the address of the weights.
        towers: None for weights without a text tower, or if no evaluation needs it.
    """

    encoder: VisionTransformer
    digest: str
    checkpoint: str
    towers: Towers | None


def freeze(run: Evaluation, with_text: bool) -> Frozen:
    """Load the encoder, and choose its attention kernels; and the text tower, if it is needed. A collective.

    Which checkpoint of a run is the newest is decided once: the run may go on meanwhile.

    Raises:
        ConfigError: for weights that cannot be loaded, or a kernel that cannot run here.
        StorageError: object storage was away for too long.
    """
    find = partial(places_of, run.weights, run.image_tower, run.text_tower)
    places = on_rank_zero(lambda: _insist(run, run.weights, find))
    size = run.image_size or places.image_size
    encoder = _insist(run, places.image_tower, partial(load_encoder, places.image_tower, size, run.patch_size))
    device = torch_device()
    try:
        set_attention_kernel(encoder, run.speed.attention, device.type, kernel_dtype(run.precision), capability())
    except ValueError as error:
        raise ConfigError([Problem("speed.attention", str(error))]) from error
    weights = digest(encoder)
    towers = _load_text(run, places.weights, device) if with_text else None
    return Frozen(encoder.to(device), weights, places.weights, towers)


def _load_text(run: Evaluation, weights: str, device: torch.device) -> Towers | None:
    """The text side, once its image tower is known to be the right one; None without. A collective."""
    model = _insist(run, weights, partial(find_image_text, weights, run.image_tower, run.text_tower))
    if model is None:
        return None
    compare = partial(check_image_tower, model)
    on_rank_zero(lambda: _insist(run, model.tower, compare))
    return _insist(run, weights, partial(load_towers, model, device, run.precision))


def _insist(run: Evaluation, address: str, read: Callable[[], Read]) -> Read:
    """What is read at an address, once object storage is there."""
    return wait_for_storage(read, address, run.storage_patience, unless=is_no_outage)


def build_evaluations(run: Evaluation) -> dict[str, Evaluate | EvaluateWithText]:
    """The objects that `evaluations` names.

    Raises:
        ConfigError: a file that one of them was given is not as it should be.
    """
    return {name: build(lookup("evaluation", name), arguments, run) for name, arguments in run.evaluations.items()}


def columns_for(evaluations: Mapping[str, Evaluate | EvaluateWithText]) -> tuple[str, ...]:
    """The columns of the test images that they need, besides image and id."""
    wanted = [
        evaluation.columns if isinstance(evaluation, EvaluateWithText) else (LABELS,)
        for evaluation in evaluations.values()
    ]
    return tuple(dict.fromkeys(column for columns in wanted for column in columns))


def read_words(data: EvalData, key: str) -> Words:
    """What `classes.json` and `captions.json` beside the shards say, if there are any.

    Raises:
        ConfigError: one of them is damaged.
    """
    (shards,) = evaluation_shards(data, key)
    classes = known_classes(shards, data.download_timeout)
    names = tuple(each.name for each in classes.classes) if classes is not None else ()
    try:
        text = read_bytes(shards, CAPTIONS_FILE, data.download_timeout)
    except Exception:  # each storage library has exceptions of its own; most shards have no such file
        return Words(names)
    try:
        return Words(names, read_captions(text))
    except ValueError as error:
        raise ConfigError([Problem(shards.where, f"{shards.address}: {error}")]) from error


def build_checked_loader(data: EvalData, key: str, image_size: int, run: Reads, columns: Sequence[str]) -> DataSpec:
    """`build_loader_of_each_once`, where a label that is none of `classes.json` is an error. A collective."""
    classes = on_rank_zero(lambda: _count_classes(data, key)) if LABELS in columns else None
    return build_loader_of_each_once(data, key, image_size, run, columns, num_classes=classes)


def features_of(name: str, data: EvalData, frozen: Frozen, run: Evaluation, columns: Sequence[str]) -> Extracted | None:
    """Features of the images in the section data.<name>, on rank 0; None elsewhere. A collective.

    `columns` are those that are kept with them, besides id.
    """
    key, device = f"data.{name}", torch_device()
    encoder, (size, _) = frozen.encoder, frozen.encoder.patch_embed.img_size
    shards = evaluation_shards(data, key)[0]
    read = partial(_digest, shards, data.download_timeout)
    digest_of_shards = on_rank_zero(lambda: _insist(run, shards.address, read))
    about = {
        "weights": frozen.digest,
        "shards": digest_of_shards,
        "columns": {column: data.columns.get(column, column) for column in ("image", "id", *columns)},  # type: ignore[call-overload]
        "image_size": size,
        "resize": data.resize or size,
        "feature": run.feature,
        "precision": run.precision,
    }

    def compute() -> Extracted | None:
        loader = build_checked_loader(data, key, size, run, columns)
        with torch.autocast(device.type, torch.bfloat16, enabled=run.precision == "amp_bf16"):
            return extract(partial(encode, encoder, run.feature), loader, device, f"features of {name} images", stepped)

    if digest_of_shards is None:
        log.info("features of %s are not kept: %s has no hashes that would show a change", name, shards.address)
        return compute()
    return cached_features(Path(run.save_folder) / "features", name, about, compute)


def _count_classes(data: EvalData, key: str) -> int | None:
    classes = known_classes(evaluation_shards(data, key)[0], data.download_timeout)
    return len(classes) if classes is not None else None


def _digest(shards: Shards, timeout: float) -> str | None:
    """Changes with any sample; None of shards without hashes, which may change unseen."""
    index = read_index(shards, timeout)
    return index.digest if index.is_hashed else None


def evaluate_all(
    evaluations: Mapping[str, Evaluate | EvaluateWithText],
    train: Extracted | None,
    test: Extracted | None,
    words: Words,
    towers: Towers | None,
) -> dict[str, Result]:
    """The evaluations, one after the other; those of images on rank 0, and of images that have a label. A collective.

    Args:
        evaluations: see `build_evaluations`.
        train, test: on rank 0; None elsewhere. `train` is None if no evaluation needs it.
        words: of the test images' dataset.
        towers: None without a text tower; evaluations with text are left out then.

    Raises:
        ConfigError: no image has a label.
    """
    results = {}
    for name, evaluation in evaluations.items():
        if not isinstance(evaluation, EvaluateWithText):
            with limited_wait(name):  # the others have nothing to do, and it may take hours
                results[name] = on_rank_zero(partial(_of_labelled, evaluation, train, test))
        elif towers is not None:
            results[name] = evaluation.with_text(test, words, towers)
        else:
            log.warning("%s is left out: these weights have no text tower", name)
            continue
        log.info("%s: %s", name, ", ".join(f"{key} {value:.4g}" for key, value in results[name].figures.items()))
    return results


def _of_labelled(evaluation: Evaluate, train: Extracted | None, test: Extracted | None) -> Result:
    assert train is not None and test is not None
    labelled = []
    for name, features in (("train", train.features), ("test", test.features)):
        labelled.append(features.labelled())
        if len(labelled[-1]) == 0:
            raise ConfigError([Problem(f"data.{name}", "no image has a label")])
        if len(labelled[-1]) < len(features):
            left_out = len(features) - len(labelled[-1])
            log.info("%s of %s %s images have no label: left out", left_out, len(features), name)
    with exact_products(torch_device()):
        return evaluation(*labelled)
