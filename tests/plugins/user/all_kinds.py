"""One plugin of every kind, as a user writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from composer.core import Algorithm, Callback, Event, State
from composer.loggers import Logger, LoggerDestination
from PIL import Image
from pydantic import Field
from safetensors.torch import save_file

from maws_composer.evaluation.features import Features, Result
from maws_composer.models.contrastive import ContrastiveLoss
from maws_composer.models.sizes import ViTSize
from maws_composer.registry import (
    register_algorithm,
    register_callback,
    register_evaluation,
    register_exporter,
    register_importer,
    register_logger,
    register_loss,
    register_optimizer,
    register_reader,
    register_schedule,
    register_size,
    register_stage,
    register_transform,
)
from maws_composer.stages.mae import MaeStage
from maws_composer.weights.sources import open_encoder
from maws_composer.weights.translation import Recipe
from streaming_conversion.source import Entry, Source

register_size("my_size")(ViTSize(width=32, depth=1, heads=2, patch_size=6))
register_stage("my_mae")(MaeStage)


def margins(logits: torch.Tensor, match: torch.Tensor) -> torch.Tensor:
    """How much the best wrong column comes too near to the right one."""
    right = logits.gather(1, match.unsqueeze(1))
    wrong = logits.scatter(1, match.unsqueeze(1), -torch.inf).amax(1, keepdim=True)
    return (wrong - right + 1).clamp(min=0).squeeze(1)


register_loss("my_margin")(ContrastiveLoss(margins))


@register_callback("my_counter")
class Counter(Callback):
    """Counts steps."""

    def __init__(self, first: int = 0) -> None:
        self.count = first

    def batch_end(self, state: State, logger: Logger) -> None:
        self.count += 1
        logger.log_metrics({"mine/count": self.count})


@register_logger("my_lines")
class Lines(LoggerDestination):
    """Writes the names of metrics to a file."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        with self.file.open("a") as out:
            out.writelines(f"{name}\n" for name in metrics)


@register_algorithm("my_centralized")
class CentralGradients(Algorithm):
    """Gradient centralization: subtracts the mean of each row of a gradient (Yong et al. 2020)."""

    def __init__(self, share: Annotated[float, Field(gt=0, le=1)] = 1.0) -> None:
        self.share = share

    def match(self, event: Event, state: State) -> bool:
        return event == Event.AFTER_TRAIN_BATCH

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        for parameter in state.model.parameters():
            if parameter.grad is not None and parameter.ndim == 2:
                parameter.grad.sub_(self.share * parameter.grad.mean(dim=1, keepdim=True))


@register_optimizer("my_lion")
class Lion(torch.optim.Optimizer):
    """Lion (Chen et al. 2023)."""

    def __init__(self, groups: list[dict[str, Any]], /, betas: tuple[float, float] = (0.9, 0.99)) -> None:
        super().__init__(groups, {"betas": betas})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            near, far = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["average"] = torch.zeros_like(parameter)
                average = state["average"]
                update = (near * average + (1 - near) * parameter.grad).sign()
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * update)
                average.mul_(far).add_(parameter.grad, alpha=1 - far)


@register_schedule("my_steps")
class Halved:
    """Half the peak from a share of the run on."""

    def __init__(self, after: Annotated[float, Field(gt=0, lt=1)] = 0.5) -> None:
        self.after = after

    def __call__(self, sample: int, total: int) -> float:
        return 1.0 if sample < self.after * total else 0.5


@register_transform("my_square")
class Square:
    """A random square of fixed size; with noise from three generators."""

    def __init__(self, size: int, noise: float = 4.0) -> None:
        self.size, self.noise = size, noise

    def __call__(self, image: Image.Image, generator: np.random.Generator) -> Image.Image:
        left, top = (int(generator.integers(side - self.size + 1)) for side in image.size)
        square = np.asarray(image.crop((left, top, left + self.size, top + self.size)), np.float32)
        added = self.noise * (np.random.rand() + torch.rand(()).item())
        return Image.fromarray((square + added).clip(0, 255).astype(np.uint8))


@register_evaluation("my_spread")
class Spread:
    """The spread of test features."""

    def __call__(self, train: Features, test: Features) -> Result:
        return Result({"spread": float(test.values.std())})


@register_reader("my_colors")
def read_colors(count: Annotated[int, Field(gt=0)], side: int = 8) -> Source:
    """Single-colored pictures."""
    entries = [Entry(key=str(number), id=f"color-{number}", stamp=str(side)) for number in range(count)]
    return Source("my_colors", {"side": side}, entries, Colors(side))


class Colors:
    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, key: str) -> bytes:
        from io import BytesIO

        buffer = BytesIO()
        Image.new("RGB", (self.side, self.side), (int(key), 0, 0)).save(buffer, "PNG")
        return buffer.getvalue()


@register_exporter("my_layout")
def export(address: str, out: Path, /, prefix: str = "mine/") -> None:
    """The encoder's tensors with a prefix."""
    encoder = open_encoder(address)
    out.mkdir()
    save_file({prefix + name: encoder.read(name) for name in encoder.shapes}, out / "model.safetensors")


@register_importer("my_layout")
def recognize(shapes: Mapping[str, torch.Size], /) -> dict[str, Recipe] | None:
    """Tensors named mine/…"""
    if not all(name.startswith("mine/") for name in shapes):
        return None
    return {f"encoder.{name.removeprefix('mine/')}": Recipe((name,)) for name in shapes}
