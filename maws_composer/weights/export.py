"""`maws-composer export`: weights of a run, or of a file, for other people's libraries.

    maws-composer export runs/mae --to timm exported/mae

    timm        folder: timm.create_model("local-dir:exported/mae", pretrained=True)
    hf          folder: transformers.ViTModel.from_pretrained("exported/mae", add_pooling_layer=False);
                of LiT: transformers.VisionTextDualEncoderModel.from_pretrained("exported/lit"), with its processor
    maws        file, such as mae.pt: a state dict, as the released weights are; of LiT as those of MAWS-CLIP
    checkpoint  folder: every tensor of the model, decoders and heads too, and config.yaml

runs/mae#ema is the moving average of the run's weights, if it was trained with callbacks.ema.
On one machine, with memory for one copy of the weights; optimizer states are not read. What is at OUT is whole.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from maws_composer.config.build import build_told, problems_of_told
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.data.own_text import is_own
from maws_composer.models.text_tower import text_config
from maws_composer.registry import register_exporter
from maws_composer.weights.dual_encoder import dual_encoder_config, has_tanh_pooler, to_dual_encoder
from maws_composer.weights.files import SourceError, Weights, checkpoint_address, open_weights
from maws_composer.weights.formats import hf_config, hf_preprocessor, timm_config, to_hf_vit
from maws_composer.weights.image_text import (
    ImageText,
    is_image_text,
    open_image_text,
    require_its_text,
    require_its_tower,
)
from maws_composer.weights.layouts import to_maws_clip
from maws_composer.weights.sources import open_model
from maws_composer.weights.trained import Trained, find_trained
from maws_composer.weights.translation import Recipes, translated

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PretrainedConfig

log = logging.getLogger(__name__)

TORCHTEXTS = ("xlm-roberta", "roberta")  # whose text towers torchtext has


def export(source: str, to: str, out: Path, image_tower: str | None = None, assignments: Sequence[str] = ()) -> str:
    """Write weights; returns the address that they are from: of a run, its newest complete checkpoint.

    Args:
        source: a run or a checkpoint, local or in object storage; but for `checkpoint`, other weights too.
        to: name of an exporter.
        out: must not exist.
        image_tower: of a LiT run that has none, trained on image embeddings. None: what the run began with.
        assignments: the exporter's arguments, as key=value.

    Raises:
        ConfigError: nothing to export, or not in this format; no such exporter, or wrong arguments of it.
    """
    problems = [*_problems_of_out(out), *_problems_of_exporter(to, assignments)]
    try:
        address = checkpoint_address(source) if to == "checkpoint" else open_model(source).address
        if problems:
            raise ConfigError(problems)
        with _whole(out) as partial:
            if to in IMAGE_TEXT_FORMATS and is_image_text(open_model(address)):
                model = open_image_text(address, image_tower)
                require_its_tower(model)
                IMAGE_TEXT_FORMATS[to](model, partial)
            else:
                build_told("exporter", to, assignments, address, partial)
    except SourceError as error:
        raise ConfigError([*problems, Problem("RUN", str(error))]) from error
    return address


def _problems_of_out(out: Path) -> list[Problem]:
    if next(iter(out.parts), "").endswith(":"):
        return [Problem(str(out), "is in object storage; name a folder on this machine, and copy it there")]
    return [Problem(str(out), "exists already; name a new one")] if out.exists() else []


def _problems_of_exporter(to: str, assignments: Sequence[str]) -> list[Problem]:
    try:
        return problems_of_told("exporter", to, assignments)
    except ConfigError as error:  # there is none of that name
        return error.problems


@register_exporter("timm")
def timm(address: str, out: Path, /) -> None:
    """For `timm.create_model("local-dir:OUT", pretrained=True)`: a folder."""
    trained = find_trained(address)
    _require_class_token(trained)
    out.mkdir()
    _write_json(out / "config.json", timm_config(trained.size, trained.image_size, trained.encoder.has_qk_norm))
    _write_safetensors(out, _read(trained.encoder))


@register_exporter("hf")
def hf(address: str, out: Path, /) -> None:
    """For `transformers.ViTModel`, or of LiT for `VisionTextDualEncoderModel`: a folder."""
    trained = find_trained(address)
    _require_class_token(trained)
    _refuse_qk_norm(trained.encoder, "transformers.ViTModel has none; use --to timm")
    out.mkdir()
    _write_json(out / "config.json", hf_config(trained.size, trained.image_size))
    _write_json(out / "preprocessor_config.json", hf_preprocessor(trained.image_size))
    _write_safetensors(out, _read(translated(trained.encoder, to_hf_vit(trained.size.depth))))


def _hf_dual_encoder(model: ImageText, out: Path) -> None:
    _refuse_qk_norm(model.weights, "transformers.ViTModel has none; use --to checkpoint")
    text = _text_config(model)
    if not has_tanh_pooler(text):
        raise SourceError(f"{model.text.name} has no place in VisionTextDualEncoderModel: use --to checkpoint")
    if "logit_bias" in model.weights.shapes:
        log.warning("VisionTextDualEncoderModel has no logit_bias: its logits are all shifted, its features are not")
    embed_dim, _ = model.weights.shapes["text_projection.weight"]
    out.mkdir()
    _write_json(out / "config.json", dual_encoder_config(model.size, model.image_size, text.to_dict(), embed_dim))
    _write_json(out / "preprocessor_config.json", hf_preprocessor(model.image_size))
    _write_tokenizer(out, model)
    _write_safetensors(out, _made(model.weights, to_dual_encoder(model.weights.shapes, model.size.depth)))


@register_exporter("maws")
def maws(address: str, out: Path, /) -> None:
    """A state dict as the released weights are, of LiT as those of MAWS-CLIP: a file."""
    _require_torch_suffix(out)
    trained = find_trained(address)
    _refuse_qk_norm(trained.encoder, "the released models have none; use --to timm")
    torch.save(_read(trained.encoder), out)


def _maws_clip(model: ImageText, out: Path) -> None:
    _require_torch_suffix(out)
    _refuse_qk_norm(model.weights, "the released models have none; use --to checkpoint")
    text = _text_config(model)
    if text.model_type not in TORCHTEXTS:
        raise SourceError(f"torchtext has no text tower such as {model.text.name}: use --to hf or checkpoint")
    if "logit_bias" in model.weights.shapes:
        log.warning("the released models have no logit_bias: logits are all shifted, features are not")
    torch.save(_made(model.weights, to_maws_clip(model.weights.shapes, text.num_hidden_layers)), out)


@register_exporter("checkpoint")
def checkpoint(address: str, out: Path, /) -> None:
    """Every tensor of the model, decoders and heads too, and config.yaml: a folder."""
    weights = open_weights(address)
    out.mkdir()
    (out / "config.yaml").write_text(yaml.safe_dump(dict(weights.config), sort_keys=False))
    _write_safetensors(out, _read(weights))


IMAGE_TEXT_FORMATS: dict[str, Callable[[ImageText, Path], None]] = {"hf": _hf_dual_encoder, "maws": _maws_clip}


def _require_torch_suffix(out: Path) -> None:
    if out.suffix not in (".pt", ".pth"):
        raise ConfigError([Problem("OUT", "with --to maws, expected a file such as encoder.pt")])


def _require_class_token(trained: Trained) -> None:
    if trained.encoder.averages_patches:
        raise SourceError(f"{trained.encoder.address} was fine-tuned on the mean of the patch tokens: use --to maws")


def _refuse_qk_norm(weights: Weights, reason: str) -> None:
    if weights.has_qk_norm:
        raise SourceError(f"{weights.address} has QK-norm: {reason}")


def _text_config(model: ImageText) -> PretrainedConfig:
    if is_own(model.text):
        raise SourceError(
            f"{model.text.name} is a text tower of a plugin, which only its code can run: use --to checkpoint, or an "
            "exporter of your own"
        )
    try:
        return text_config(model.text)
    except ValueError as error:
        raise SourceError(str(error)) from error


def _made(weights: Weights, recipes: Recipes) -> dict[str, Tensor]:
    """Only what has a recipe."""
    made = translated(weights, recipes)
    return {name: made.read(name) for name in tqdm(recipes, desc="reading", unit="tensor", disable=None)}


def _write_tokenizer(out: Path, model: ImageText) -> None:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model.text.name, model_max_length=model.text.context_length)
        tokenizer.save_pretrained(out)
    except (OSError, ValueError) as error:
        log.warning("without a tokenizer, which is that of %s: %s", model.text.name, error)
    else:
        require_its_text(model)


def _read(weights: Weights) -> dict[str, Tensor]:
    return {name: weights.read(name) for name in tqdm(weights.shapes, desc="reading", unit="tensor", disable=None)}


def _write_safetensors(folder: Path, tensors: dict[str, Tensor]) -> None:
    file = folder / "model.safetensors"
    save_file(tensors, file, metadata={"format": "pt"})  # which transformers asks for
    file.chmod(0o644)  # the library lets nobody but its owner read it


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A place beside `out`, that is moved there when all is written."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".partial-{out.name}")
    _remove(partial)
    try:
        yield partial
        partial.rename(out)
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
