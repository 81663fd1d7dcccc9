"""An image-text model with both towers, also where its checkpoint leaves out the locked one."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from maws_composer.models.sizes import ViTSize
from maws_composer.models.text_tower import KNOWN_TEXT_TOWERS, TextSettings
from maws_composer.weights.files import SourceError, Weights
from maws_composer.weights.sources import open_model
from maws_composer.weights.trained import find_trained


class ImageText(NamedTuple):
    """A model of LiT.

    Attributes:
        weights: of both towers, by the names of `models.clip.ImageTextModel`.
        size: of the image tower.
        image_size: side of its images in pixels.
        text: of which kind the text tower is.
    """

    weights: Weights
    size: ViTSize
    image_size: int
    text: TextSettings


def is_image_text(model: Weights) -> bool:
    return "text_projection.weight" in model.shapes


def open_image_text(address: str, image_tower: str | None = None) -> ImageText:
    """The model of a LiT run, or of MAWS-CLIP.

    Args:
        address: of the model.
        image_tower: address of the one that belongs to it. None: if it is not with the model, what its run began with.

    Raises:
        SourceError: it is no such model, its image tower cannot be found, or nobody knows which text tower it has.
        ConfigError: its size is not registered.
    """
    model = open_model(address)
    if not is_image_text(model):
        raise SourceError(f"{address} has no text tower")
    text = _text_settings(model)
    has_tower = any(name.startswith("encoder.") for name in model.shapes)
    source = image_tower or (address if has_tower else model.config.get("initialize_from"))
    if not source:
        raise SourceError(f"{address} has no image tower, and its config.yaml no initialize_from: name the tower")
    tower = find_trained(source)
    return ImageText(_joined(model, tower.encoder), tower.size, tower.image_size, text)


def _text_settings(model: Weights) -> TextSettings:
    """What the run was told; of a released file, the XLM-R of that width."""
    if "model" in model.config:
        return TextSettings(**{**model.config["model"]["text"], "dropout": 0.0})
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
