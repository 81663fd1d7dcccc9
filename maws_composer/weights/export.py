"""`maws-composer export`: weights of a run for other people's libraries.

    maws-composer export runs/mae --to timm exported/mae

    timm        folder: timm.create_model("local-dir:exported/mae", pretrained=True)
    hf          folder: transformers.ViTModel.from_pretrained("exported/mae", add_pooling_layer=False)
    maws        file, such as mae.pt: a state dict, as the released weights are
    checkpoint  folder: every tensor of the model, decoders and heads too, and config.yaml

On one machine, with memory for one copy of the weights; optimizer states are not read. What is at OUT is whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.weights.files import SourceError, Weights, find_checkpoint, open_weights
from maws_composer.weights.formats import hf_config, hf_preprocessor, timm_config, to_hf_vit
from maws_composer.weights.sources import Encoder, open_encoder
from maws_composer.weights.trained import find_trained
from maws_composer.weights.translation import translated


def export(run: str, to: str, out: Path) -> str:
    """Write the weights of a run's newest complete checkpoint; returns the checkpoint's address.

    Args:
        run: a run or a checkpoint, local or in object storage.
        to: one of FORMATS.
        out: must not exist.

    Raises:
        ConfigError: nothing to export, or not in this format.
    """
    if out.parts[0].endswith(":"):
        raise ConfigError([Problem(str(out), "is in object storage; name a folder on this machine, and copy it there")])
    if out.exists():
        raise ConfigError([Problem(str(out), "exists already; name a new one")])
    try:
        checkpoint = find_checkpoint(run)
        config = yaml.safe_load((checkpoint / "config.yaml").read_text())
        with _whole(out) as partial:
            FORMATS[to](str(checkpoint), config, partial)
    except SourceError as error:
        raise ConfigError([Problem("RUN", str(error))]) from error
    return str(checkpoint)


def _timm(checkpoint: str, config: dict[str, Any], out: Path) -> None:
    encoder, size, image_size = find_trained(checkpoint)
    out.mkdir()
    _write_json(out / "config.json", timm_config(size, image_size, encoder.has_qk_norm))
    _write_safetensors(out, _read(encoder))


def _hf(checkpoint: str, config: dict[str, Any], out: Path) -> None:
    encoder, size, image_size = find_trained(checkpoint)
    _refuse_qk_norm(encoder, "transformers.ViTModel has none; use --to timm")
    out.mkdir()
    _write_json(out / "config.json", hf_config(size, image_size))
    _write_json(out / "preprocessor_config.json", hf_preprocessor(image_size))
    _write_safetensors(out, _read(translated(encoder, to_hf_vit(size.depth))))


def _maws(checkpoint: str, config: dict[str, Any], out: Path) -> None:
    if out.suffix not in (".pt", ".pth"):
        raise ConfigError([Problem("OUT", "with --to maws, expected a file such as encoder.pt")])
    encoder = open_encoder(checkpoint)
    _refuse_qk_norm(encoder, "the released models have none; use --to timm")
    torch.save(_read(encoder), out)


def _checkpoint(checkpoint: str, config: dict[str, Any], out: Path) -> None:
    out.mkdir()
    (out / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    _write_safetensors(out, _read(open_weights(checkpoint)))


FORMATS: dict[str, Callable[[str, dict[str, Any], Path], None]] = {
    "timm": _timm,
    "hf": _hf,
    "maws": _maws,
    "checkpoint": _checkpoint,
}


def _refuse_qk_norm(encoder: Encoder, reason: str) -> None:
    if encoder.has_qk_norm:
        raise SourceError(f"{encoder.address} has QK-norm: {reason}")


def _read(weights: Weights) -> dict[str, Tensor]:
    return {name: weights.read(name) for name in tqdm(weights.shapes, desc="reading", unit="tensor")}


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
