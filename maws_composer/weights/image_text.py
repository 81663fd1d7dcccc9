"""An image-text model with both towers, also where its checkpoint leaves out the locked one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from maws_composer.checkpoints.saving import ENCODER_FILE, TEXT_FILE
from maws_composer.data.own_text import is_own
from maws_composer.models.sizes import ViTSize
from maws_composer.models.text_tower import KNOWN_TEXT_TOWERS, TextSettings
from maws_composer.models.vit import VisionTransformer
from maws_composer.registry import lookup
from maws_composer.weights.files import SourceError, Weights
from maws_composer.weights.fingerprint import fingerprint
from maws_composer.weights.resizing import resized
from maws_composer.weights.sources import open_model
from maws_composer.weights.text_identity import text_difference, text_identity
from maws_composer.weights.trained import Trained, find_trained


class ImageText(NamedTuple):
    """A model of LiT.

    Attributes:
        weights: of both towers, by the names of `models.clip.ImageTextModel`.
        size: of the image tower.
        image_size: side of its images in pixels.
        text: of which kind the text tower is.
        tower: where the image tower is from.
        fingerprint: what `encoder.json` says of it; None if the model was saved with its tower.
        fingerprinted: whose that is: the tower as it lies there, if embeddings were computed with it, or as it was
            resized for training on images.
        text_identity: what `text.json` says of the text tower; None for weights of others.
    """

    weights: Weights
    size: ViTSize
    image_size: int
    text: TextSettings
    tower: str
    fingerprint: str | None
    fingerprinted: Weights
    text_identity: Mapping[str, Any] | None


def is_image_text(model: Weights) -> bool:
    return "text_projection.weight" in model.shapes


def has_encoder(model: Weights) -> bool:
    return any(name.startswith("encoder.") for name in model.shapes)


def open_image_text(address: str, image_tower: str | None = None, text_tower: str | None = None) -> ImageText:
    """The model of a LiT run, or of MAWS-CLIP.

    Args:
        address: of the model.
        image_tower: address of the one that belongs to it. None: if it is not with the model, what its run began with.

        text_tower: name or folder of the text tower's configuration and tokenizer. None: what its run had, or of a
            released file, the XLM-R of that width.

    Raises:
        SourceError: it is no such model, its image tower cannot be found, or nobody knows which text tower it has.
        ConfigError: its size is not registered.
    """
    model = open_model(address)
    if not is_image_text(model):
        raise SourceError(f"{address} has no text tower")
    text, identity = _text_settings(model, text_tower), _read_beside(model, TEXT_FILE)
    if identity and identity.get("is_plugin") and text.name == identity["name"] and not is_own(text):
        message = f"the text tower of {address}, {text.name}, is a plugin that is not here; say where with --code-path"
        raise SourceError(f"{message}, or code_paths in a YAML")
    source = image_tower or (address if has_encoder(model) else model.config.get("initialize_from"))
    if not source:
        raise SourceError(f"{address} has no image tower, and its config.yaml no initialize_from: name the tower")
    lying = find_trained(source)
    tower = lying if has_encoder(model) else _as_trained_with(lying, model.config)
    fingerprinted = lying if _is_of_embeddings(model.config) else tower
    return ImageText(
        _joined(model, tower.encoder),
        tower.size,
        tower.image_size,
        text,
        source,
        None if has_encoder(model) else (_read_beside(model, ENCODER_FILE) or {}).get("fingerprint"),
        fingerprinted.encoder,
        identity,
    )


def require_its_tower(model: ImageText) -> None:
    """Read the image tower once, to see whether it is the one that the text tower was trained with.

    Raises:
        SourceError: it is another one.
    """
    tower = model.fingerprinted
    if model.fingerprint and fingerprint(tower.shapes, tower.read) != model.fingerprint:
        raise SourceError(
            f"the image tower at {model.tower} is not the one that {model.weights.address} was trained with, "
            f"whose fingerprint is {model.fingerprint[:12]}; name that one"
        )


def require_its_text(model: ImageText) -> None:
    """Compare the tokenizer, and the text tower's configuration, with those that the weights were trained with.

    Raises:
        SourceError: they are others.
        ConfigError: there is no such tokenizer.
    """
    try:
        told = model.text_identity and text_difference(model.text_identity, text_identity(model.text))
    except ValueError as error:
        raise SourceError(str(error)) from error
    if told:
        raise SourceError(f"{told}; name the one that {model.weights.address} was trained with")


def _read_beside(model: Weights, name: str) -> dict[str, Any] | None:
    file = model.place / name
    content: dict[str, Any] | None = json.loads(file.read_text()) if file.exists() else None
    return content


def _as_trained_with(tower: Trained, config: Mapping[str, Any]) -> Trained:
    """The tower at the run's image and patch size, if the run, or `embed`, resized it."""
    if not config.get("initialize_resize") and not _is_of_embeddings(config):
        return tower
    size, image_size = lookup("size", config["model"]["size"]).builder, config["model"]["image_size"]
    with torch.device("meta"):
        encoder = VisionTransformer(size, image_size, qk_norm=tower.encoder.has_qk_norm)
    tensors, _ = resized(tower.encoder, {name: tensor.shape for name, tensor in encoder.state_dict().items()})
    return Trained(tensors, size, image_size)


def _is_of_embeddings(config: Mapping[str, Any]) -> bool:
    return bool(config.get("model", {}).get("image_embeddings"))


def _text_settings(model: Weights, name: str | None) -> TextSettings:
    if "model" in model.config:
        given = TextSettings(**{**model.config["model"]["text"], "dropout": 0.0})
        return replace(given, name=name or given.name)
    if name is not None:
        return TextSettings(name=name)
    width = model.shapes["text_projection.weight"][1]
    for name, size in KNOWN_TEXT_TOWERS.items():
        if size.width == width:
            return TextSettings(name=name)
    raise SourceError(f"{model.address} has a text tower {width} wide, which is none that we know")


def _joined(model: Weights, tower: Weights) -> Weights:
    inside = {f"encoder.{name}": name for name in tower.shapes}
    own = [name for name in model.shapes if name not in inside]
    return replace(
        model,
        shapes={name: model.shapes[name] for name in own} | {ours: tower.shapes[name] for ours, name in inside.items()},
        dtypes={name: model.dtypes[name] for name in own} | {ours: tower.dtypes[name] for ours, name in inside.items()},
        read=lambda name: tower.read(inside[name]) if name in inside else model.read(name),
    )
