"""The two towers of an image-text model, for evaluations: of a LiT run in training, or of its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.data import own_text
from maws_composer.data.captions import Tokens
from maws_composer.evaluation.encoder import encoder_at
from maws_composer.models.clip import ImageTextModel
from maws_composer.models.text_tower import TextSettings
from maws_composer.stages.text import build_text
from maws_composer.weights.files import SourceError
from maws_composer.weights.image_text import (
    ImageText,
    is_image_text,
    open_image_text,
    require_its_text,
    require_its_tower,
)
from maws_composer.weights.sources import open_model

Encode = Callable[[Int[Tensor, "batch tokens"], Int[Tensor, "batch tokens"]], Float[Tensor, "batch embed"]]


class FrozenTowers:
    """Towers as evaluations see them (`features.Towers`).

    Args:
        projection: of the image side.
        encode: embeddings of unit length from tokens on `device`; a collective if the text tower is sharded.
        tokenizer: of the text tower.
        device: this rank's.
    """

    def __init__(
        self,
        projection: Float[Tensor, "embed width"],
        encode: Encode,
        tokenizer: Callable[[Sequence[str]], Tokens],
        device: torch.device,
    ) -> None:
        self._projection = projection.float().cpu()
        self._encode = encode
        self._tokenizer = tokenizer
        self._device = device

    def project(self, features: Float[Tensor, "images width"]) -> Float[Tensor, "images embed"]:
        return normalize(features @ self._projection.T, dim=1)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "texts embed"]:
        tokens = self._tokenizer(texts)
        ids, mask = (tokens[name].to(self._device) for name in ("input_ids", "attention_mask"))
        return self._encode(ids, mask).float().cpu()


class Places(NamedTuple):
    """Where the parts of what is evaluated are.

    Attributes:
        weights: address; of a run, its newest checkpoint.
        image_tower: address of the encoder that belongs to them: the weights, or what a LiT run began with.
        image_size: that the encoder was used with.
    """

    weights: str
    image_tower: str
    image_size: int


def places_of(weights: str, image_tower: str | None = None, text_tower: str | None = None) -> Places:
    """Find the weights and their encoder, without reading them.

    Raises:
        ConfigError: see `encoder_at` and `find_image_text`.
    """
    model = find_image_text(weights, image_tower, text_tower)
    trained = encoder_at(weights if model is None else model.tower)
    if model is None:
        return Places(trained.encoder.address, trained.encoder.address, trained.image_size)
    return Places(model.weights.address, trained.encoder.address, model.image_size)


def find_image_text(weights: str, image_tower: str | None = None, text_tower: str | None = None) -> ImageText | None:
    """Look for a model with two towers, without reading weights; None if there is none.

    Args:
        weights: see `weights.sources`.
        image_tower: address of the one that belongs to it. None: that in the weights, or what the run began with.
        text_tower: name or folder of its configuration and tokenizer. None: those that the run had.

    Raises:
        ConfigError: they cannot be read, or a tower cannot be found.
    """
    try:
        if not is_image_text(open_model(weights)):
            return None
        return open_image_text(weights, image_tower, text_tower)
    except SourceError as error:
        raise ConfigError([Problem("weights", str(error))]) from error


def text_problems(text: TextSettings) -> list[Problem]:
    """Whether the tower can be built and its tokenizer be had."""
    return [replace(problem, path="text_tower") for problem in own_text.text_problems(text)]


def check_image_tower(model: ImageText) -> None:
    """Read the image tower to see whether the text tower was trained with it.

    Raises:
        ConfigError: it was not.
    """
    try:
        require_its_tower(model)
    except SourceError as error:
        raise ConfigError([Problem("image_tower", str(error))]) from error


def load_towers(model: ImageText, device: torch.device, precision: str) -> FrozenTowers:
    """Read the text side onto `device`.

    Raises:
        ConfigError: the weights are not those of the tower that the configuration describes, or the tokenizer cannot be
            had, or is not that of the training.
    """
    tokenizer = own_text.tokenizer_of(model.text)
    try:
        require_its_text(model)
    except SourceError as error:
        raise ConfigError([Problem("text_tower", str(error))]) from error
    embed, width = model.weights.shapes["image_projection.weight"]
    try:
        ours = ImageTextModel(None, build_text(model.text), embed, image_width=width)
        ours.load_state_dict({name: model.weights.read(name) for name in ours.state_dict()})
    except (SourceError, ValueError, RuntimeError, KeyError) as error:
        message = f"{model.weights.address} does not fit the text tower {model.text.name}: {error}"
        raise ConfigError([Problem("text_tower", message)]) from error
    ours.eval().to(device)

    def encode(ids: Tensor, mask: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "amp_bf16"):
            return ours.encode_text(ids, mask)

    return FrozenTowers(ours.image_projection.weight.detach(), encode, tokenizer, device)
