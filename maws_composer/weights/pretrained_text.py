"""A stage's text tower begins with the weights of a model on Hugging Face, or of a local folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.models.text_tower import TextSettings, read_text_weights
from maws_composer.parallel.agree import on_rank_zero
from maws_composer.parallel.materialize import as_sharded

log = logging.getLogger(__name__)

_PATH = "model.text.name"
_NONE_NEEDED = "model.text.pretrained=false needs no weights"
_WEIGHT_FILES = (
    "model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json",
)  # fmt: skip
_SHOWN = 6  # tensors that disagree


@torch.no_grad()
def load_pretrained_text(settings: TextSettings, tower: nn.Module) -> None:
    """Fill a sharded text tower. A collective; rank 0 reads, and sends tensor by tensor.

    Raises:
        ConfigError: on every rank; the weights cannot be read, or do not fit.
    """
    whole: dict[str, Tensor] = {}
    ours = dict(tower.named_parameters())

    def read() -> str:
        whole.update(_read(settings))
        _require_fit(settings.name, whole, ours)
        return f"text tower from {settings.name}: {len(ours)} tensors"

    log.info("%s", on_rank_zero(read))
    for name, parameter in ours.items():
        tensor = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
        if whole:  # on rank 0
            tensor.copy_(whole.pop(name))
        dist.broadcast(tensor, src=0)
        parameter.copy_(as_sharded(tensor, parameter))


def text_weight_problems(name: str) -> list[Problem]:
    """Whether there are weights of that name at all; nothing is downloaded for it."""
    if Path(name).is_dir():
        folder = Path(name)
        if any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin")):
            return []
        message = f"{folder} has neither *.safetensors nor pytorch_model.bin; {_NONE_NEEDED}"
        return [Problem(_PATH, message)]
    from transformers.utils import has_file

    try:
        if any(has_file(name, file) for file in _WEIGHT_FILES):
            return []
        reason = "neither the cache nor Hugging Face has any"
    except Exception as error:  # each kind of network failure has its own
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    message = (
        f"the weights of {name} cannot be had ({reason}); without network, `hf download {name} --local-dir FOLDER` "
        f"elsewhere, and name that folder here; {_NONE_NEEDED}"
    )
    return [Problem(_PATH, message)]


def _read(settings: TextSettings) -> dict[str, Tensor]:
    try:
        return read_text_weights(settings)
    except ValueError as error:
        raise ConfigError([Problem(_PATH, str(error))]) from error


def _require_fit(name: str, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> None:
    there, here = ({key: tuple(tensor.shape) for key, tensor in tensors.items()} for tensors in (theirs, ours))
    wrong = [key for key in {**here, **there} if there.get(key) != here.get(key)]
    if wrong:
        lines = [f"{key}: {there.get(key)} there, {here.get(key)} here" for key in wrong[:_SHOWN]]
        raise ConfigError([Problem(_PATH, "\n".join([f"{name} does not fit, {len(wrong)} tensors disagree", *lines]))])
