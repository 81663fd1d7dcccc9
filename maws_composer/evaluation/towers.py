"""The two towers of an image-text model, for evaluations: of a LiT run in training, or of its weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from maws_composer.checkpoints.run_folder import open_path
from maws_composer.checkpoints.saving import ENCODER_FILE
from maws_composer.config.check import check
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.data.captions import CaptionTokenizer, tokenizer_problems
from maws_composer.models.clip import ImageTextModel
from maws_composer.models.text_tower import KNOWN_TEXT_TOWERS, TextSettings, build_text_tower
from maws_composer.models.vit import VisionTransformer
from maws_composer.weights.files import SourceError, Weights
from maws_composer.weights.fingerprint import fingerprint
from maws_composer.weights.sources import open_model

Encode = Callable[[Int[Tensor, "batch tokens"], Int[Tensor, "batch tokens"]], Float[Tensor, "batch embed"]]

_TEXT = "text_projection.weight"
_OURS = re.compile(r"text\..+|(image|text)_projection\.weight|logit_scale")
_CONTEXT = 102  # of the released models (FACTS.md 6.1)


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
        tokenizer: CaptionTokenizer,
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


class TextWeights(NamedTuple):
    """Weights that have a text tower.

    Attributes:
        weights: by the names of `ImageTextModel`.
        settings: of the text tower.
    """

    weights: Weights
    settings: TextSettings


class Places(NamedTuple):
    """Where the parts of a model are.

    Attributes:
        weights: address; of a run, its newest checkpoint.
        image_tower: address of the encoder that belongs to them: these weights, or, since a LiT checkpoint leaves out a
            locked image tower, what its run began with.
        image_size: that the image tower was used with. None: its own.
        fingerprint: of the image tower that the run began with. None: it is in the weights, or nothing says it.
    """

    weights: str
    image_tower: str
    image_size: int | None = None
    fingerprint: str | None = None


def places_of(address: str) -> Places:
    """Find the weights and their image tower, without reading them.

    Raises:
        ConfigError: the weights cannot be read.
    """
    weights = _open(address)
    if _TEXT not in weights.shapes or any(name.startswith("encoder.") for name in weights.shapes):
        return Places(weights.address, weights.address)
    source = weights.config.get("initialize_from")
    if not source:
        message = f"{weights.address} has no image tower, and its config.yaml no initialize_from"
        raise ConfigError([Problem("weights", message)])
    identity = open_path(weights.address) / ENCODER_FILE
    known = json.loads(identity.read_text())["fingerprint"] if identity.exists() else None
    return Places(weights.address, _open(source).address, weights.config["model"].get("image_size"), known)


def require_same(encoder: VisionTransformer, places: Places, is_resized: bool) -> None:
    """Whether the encoder is the one that a LiT run was trained with; not known if it `is_resized` for the evaluation.

    Raises:
        ConfigError: it is another.
    """
    if places.fingerprint is None or is_resized:
        return
    parameters = dict(encoder.named_parameters())
    if fingerprint(parameters, lambda name: parameters[name].detach()) != places.fingerprint:
        message = f"{places.image_tower} is another encoder than {places.weights} was trained with"
        raise ConfigError([Problem("weights", message)])


def find_text(address: str, text_tower: str | None = None) -> TextWeights | None:
    """Look for a text tower, without reading weights; None if there is none.

    Args:
        address: see `weights.sources`.
        text_tower: name or folder of its configuration and tokenizer. None: those that the run had.

    Raises:
        ConfigError: the weights cannot be read, or nothing says what text tower it is.
    """
    weights = _open(address)
    return TextWeights(weights, _settings(weights, text_tower)) if _TEXT in weights.shapes else None


def text_problems(text: TextWeights) -> list[Problem]:
    """Whether the tower can be built and its tokenizer be had."""
    problems = tokenizer_problems(text.settings.name, text.settings.context_length)
    return [replace(problem, path="text_tower") for problem in problems]


def load_towers(text: TextWeights, device: torch.device, precision: str) -> FrozenTowers:
    """Read the text side onto `device`.

    Raises:
        ConfigError: the weights are not those of the tower that the configuration describes, or the tokenizer cannot be
            had.
    """
    tokenizer = CaptionTokenizer(text.settings.name, text.settings.context_length)
    embed, width = text.weights.shapes["image_projection.weight"]
    try:
        model = ImageTextModel(None, build_text_tower(text.settings), embed, image_width=width)
        ours = [name for name in text.weights.shapes if _OURS.fullmatch(name)]
        model.load_state_dict({name: text.weights.read(name) for name in ours})
    except (ValueError, RuntimeError) as error:
        message = f"{text.weights.address} does not fit the text tower {text.settings.name}: {error}"
        raise ConfigError([Problem("text_tower", message)]) from error
    model.eval().to(device)

    def encode(ids: Tensor, mask: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "amp_bf16"):
            return model.encode_text(ids, mask)

    return FrozenTowers(model.image_projection.weight.detach(), encode, tokenizer, device)


def _open(address: str) -> Weights:
    try:
        return open_model(address)
    except SourceError as error:
        raise ConfigError([Problem("weights", str(error))]) from error


def _settings(weights: Weights, text_tower: str | None) -> TextSettings:
    given = (weights.config.get("model") or {}).get("text")
    if given is not None:
        settings = check(TextSettings, given).value
        if settings is None:
            raise ConfigError([Problem("weights", f"the section model.text of {weights.address} cannot be read")])
        return replace(settings, name=text_tower or settings.name, dropout=0.0)
    width = weights.shapes[_TEXT][1]
    known = [name for name, size in KNOWN_TEXT_TOWERS.items() if size.width == width]
    if text_tower is None and not known:
        message = f"{weights.address} has a text tower {width} wide, which is none that we know; name it"
        raise ConfigError([Problem("text_tower", message)])
    return TextSettings(name=text_tower or known[0], context_length=_CONTEXT)
