"""Writes down what a stage-1 model is given at each step: samples, crops and masks."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist
from torch import Tensor, nn

from maws_composer.registry import register_callback


@register_callback("record_inputs")
class RecordInputs(Callback):
    """One JSON line per step and rank: for each sample [id, digest of its pixels, digest of its mask's noise].

    Args:
        folder: where inputs-rank<n>.jsonl goes.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.given: list[list[str]] = []

    def fit_start(self, state: State, logger: Logger) -> None:
        state.model.mae.register_forward_pre_hook(self._record)  # type: ignore[union-attr, operator]
        self.folder.mkdir(parents=True, exist_ok=True)

    def batch_start(self, state: State, logger: Logger) -> None:
        self.ids, self.given = list(state.batch["id"]), []

    def batch_end(self, state: State, logger: Logger) -> None:
        rows = [[name, *digests] for name, digests in zip(self.ids, self.given, strict=True)]
        entry = {"batch": int(state.timestamp.batch), "world_size": dist.get_world_size(), "rows": rows}
        with (self.folder / f"inputs-rank{dist.get_global_rank()}.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def _record(self, mae: nn.Module, given: tuple[Any, ...]) -> None:
        if mae.training:
            pixels, noise = given
            self.given += [[_digest(image), _digest(mask)] for image, mask in zip(pixels, noise, strict=True)]


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()[:16]
