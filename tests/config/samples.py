"""A good configuration, and a small stage, callback and logger for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from composer import Callback
from composer.loggers import LoggerDestination
from composer.models import ComposerModel
from pydantic import Field

from maws_composer import registry
from maws_composer.config.durations import Interval

if TYPE_CHECKING:
    from maws_composer.config.run import Run

GOOD = """\
stage: mae
model: {size: vit_b16}
data:
  train: {remote: s3://bucket/images}
global_train_batch_size: 4096
max_duration: 5_000_000_000sp
"""


@dataclass(frozen=True)
class Decoder:
    width: Annotated[int, Field(gt=0)] = 512
    heads: int = 16

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} cannot be split over {self.heads} heads")


class Stage(ComposerModel):
    """Hides patches.

    Args:
        size: the encoder.
    """

    def __init__(
        self,
        size: Annotated[str, registry.OneOf("size")],
        mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75,
        decoder: Decoder = Decoder(),
        *,
        run: Run,
    ) -> None:
        super().__init__()
        self.size, self.mask_ratio, self.decoder, self.run = size, mask_ratio, decoder, run

    def forward(self, batch: object) -> None: ...

    def loss(self, outputs: object, batch: object) -> None: ...


class InputWait(Callback):
    def __init__(self, every: Interval = "50ba", share: float = 0.1) -> None:
        self.every, self.share = every, share


class Wandb(LoggerDestination):
    def __init__(self, project: str, api_key: str | None = None) -> None:
        self.project, self.api_key = project, api_key
