"""A LiT run in miniature, as its checkpoint's export looks: the text side alone, and the encoder that it began with."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from streaming import MDSWriter

from maws_composer.models.clip import ImageTextModel
from maws_composer.models.initialization import initialize
from maws_composer.models.text_tower import TextSettings
from maws_composer.models.vit import VisionTransformer
from maws_composer.registry import load_plugins, lookup
from maws_composer.stages.text import build_text
from tests.evaluation.labelled import COLORS
from tests.text_towers import write_text_tower

NAMES = {
    "en": [["red square", "square that is red"], ["green square"], ["blue square"]],
    "ja": [["赤い四角"], ["緑の四角", "緑"], ["青い四角"]],
}

_WORDS = ("a", "red", "blue", "circle", "two", "table")  # which the tokenizer knows


def write_lit(folder: Path, settings: TextSettings | None = None) -> ImageTextModel:
    """Write folder/{encoder,text,lit}; returns the whole model, for comparison. With a text tower if one is named."""
    load_plugins(["maws_composer.stages"])
    if settings is None:
        settings = TextSettings(name=str(write_text_tower(folder / "text")), pretrained=False, context_length=20)
    encoder = VisionTransformer(lookup("size", "vit_micro").builder, 24)
    initialize(encoder, seed=3)
    torch.manual_seed(1)
    model = ImageTextModel(encoder, build_text(settings), 24).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("encoder."):
                parameter.copy_(torch.randn_like(parameter) * parameter.std().nan_to_num(1).clamp(min=0.05))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    encoder_state = {name: tensor for name, tensor in state.items() if name.startswith("encoder.")}
    text_state = {name: tensor for name, tensor in state.items() if name not in encoder_state}
    shape = {"size": "vit_micro", "image_size": 24}
    mae = {"stage": "mae", "model": shape}
    _write(folder / "encoder", {f"mae.{name}": tensor for name, tensor in encoder_state.items()}, mae)
    lit = {"stage": "lit", "model": {**shape, "text": vars(settings)}, "initialize_from": str(folder / "encoder")}
    _write(folder / "lit", {f"clip.{name}": tensor for name, tensor in text_state.items()}, lit)
    return model


def write_captioned(folder: Path, count: int) -> list[tuple[np.ndarray, int, str]]:
    """Squares of one of three colors as MDS with labels and captions, and captions.json; returns them."""
    rng = np.random.default_rng(0)
    columns = {"image": "bytes", "id": "str", "labels": "ndarray:int32", "caption": "str"}
    samples, captions = [], {}
    with MDSWriter(out=str(folder), columns=columns, hashes=["sha1"], size_limit=1 << 14) as writer:
        for number in range(count):
            color = int(rng.integers(len(COLORS)))
            pixels = np.clip(np.array(COLORS[color]) + rng.normal(0, 40, (24, 24, 3)), 0, 255).astype(np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            digits = (number % 6, number // 6 % 6, number // 36)
            caption = " ".join([NAMES["en"][color][0], *(_WORDS[digit] for digit in digits)])
            labels = np.array([color], np.int32)
            writer.write({"image": buffer.getvalue(), "id": str(number), "labels": labels, "caption": caption})
            captions[str(number)] = {"ja": f"{NAMES['ja'][color][0]} {number}"}
            samples.append((pixels, color, caption))
    (folder / "captions.json").write_text(json.dumps(captions))
    names = {index: {language: of[index] for language, of in NAMES.items()} for index in range(len(COLORS))}
    (folder / "names.yaml").write_text(yaml.safe_dump(names, allow_unicode=True))
    return samples


def _write(folder: Path, state: dict[str, torch.Tensor], config: dict) -> None:
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
