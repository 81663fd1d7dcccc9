"""Stage 2: weakly supervised pretraining on hashtags (Singh et al. 2023, section 3; Mahajan et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from composer.models import ComposerModel
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torchmetrics import Metric

from maws_composer.models.classifier import ImageClassifier, soft_label_cross_entropy
from maws_composer.models.vit import VisionTransformer
from maws_composer.planning.workload import Workload, wsp_workload
from maws_composer.registry import OneOf, lookup, register_stage
from maws_composer.stages.label_metrics import (
    THIRDS,
    BinnedMeanAveragePrecision,
    LabelLoss,
    PrecisionAt,
    bytes_of_bins,
)
from maws_composer.stages.pixels import normalize

Batch = Mapping[str, Any]


@register_stage("wsp")
class WspStage(ComposerModel):
    """Tell which classes an image was tagged with.

    Metrics: the loss, precision@1 and @5 (any of the labels), mean average precision in bins; and by the head, middle
    and tail third of the classes: this average precision, and precision@1 among its classes.

    Args:
        size: the encoder, by name.
        num_classes: as many as `classes.json` of the data has.
        image_size: side of the square crop, in pixels.
        fixed_positions: keep the position embeddings as they are, instead of training them.
        qk_norm: LayerNorm on queries and keys; the released weights have none.
        frequency_thirds: evaluate the head, middle and tail third of the classes too; `classes.json` has to number them
            from the most frequent to the rarest, as `streaming_conversion label` does and `imagefolder` does not.
    """

    columns: tuple[str, ...] = ("labels",)
    encoder_prefix = "classifier.encoder."

    def __init__(
        self,
        size: Annotated[str, OneOf("size")],
        num_classes: Annotated[int, Field(gt=0)],
        image_size: Annotated[int, Field(gt=0)] = 224,
        fixed_positions: bool = False,
        qk_norm: bool = False,
        frequency_thirds: bool = True,
    ) -> None:
        super().__init__()
        thirds = THIRDS if frequency_thirds else ()
        encoder = VisionTransformer(
            lookup("size", size).builder, image_size, fixed_positions=fixed_positions, qk_norm=qk_norm
        )
        self.classifier = ImageClassifier(encoder, num_classes)
        with torch.device("cpu"):  # stages are built on the meta device, metrics have to be real
            self.metrics = nn.ModuleDict(
                {
                    "loss": LabelLoss(),
                    "precision@1": PrecisionAt(1),
                    "precision@5": PrecisionAt(5),
                    **{f"precision@1_{third}": PrecisionAt(1, third) for third in thirds},
                    "binned_map": BinnedMeanAveragePrecision(num_classes),
                    **{f"binned_map_{third}": BinnedMeanAveragePrecision(num_classes, third) for third in thirds},
                }
            )

    @staticmethod
    def workload(
        size: str, num_classes: int, image_size: int, fixed_positions: bool, qk_norm: bool, frequency_thirds: bool
    ) -> Workload:
        """What this costs, without building it."""
        metrics = (1 + frequency_thirds) * bytes_of_bins(num_classes)
        return wsp_workload(lookup("size", size).builder, num_classes, image_size, fixed_positions, qk_norm, metrics)

    def forward(self, batch: Batch) -> Float[Tensor, "batch classes"]:
        return self.classifier(normalize(batch["image"]))

    def loss(self, outputs: Float[Tensor, "batch classes"], batch: Batch) -> Float[Tensor, ""]:
        """Mean over the images, those without labels counted as 0.

        To divide by the labelled ones, a microbatch would have to know how many the others have.
        """
        return soft_label_cross_entropy(outputs, batch["labels"]).mean()

    def eval_forward(
        self, batch: Batch, outputs: Float[Tensor, "batch classes"] | None = None
    ) -> Float[Tensor, "batch classes"]:
        return self.forward(batch)

    def get_metrics(self, is_train: bool) -> dict[str, Metric]:
        return {} if is_train else dict(self.metrics.items())

    def update_metric(self, batch: Batch, outputs: Float[Tensor, "batch classes"], metric: Metric) -> None:
        """Rows that only fill the last batch weigh nothing."""
        metric.update(outputs, batch["labels"], batch["valid"])

    def blocks(self) -> list[nn.Module]:
        """The repeated blocks in the order of the forward pass."""
        return [*self.classifier.encoder.blocks]

    def initialize_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        self.classifier.initialize_parameter(name.removeprefix("classifier."), tensor, generator)
