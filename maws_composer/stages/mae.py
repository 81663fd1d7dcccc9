"""Stage 1: MAE pre-pretraining (Singh et al. 2023, section 3; He et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import torch
from composer.models import ComposerModel
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from maws_composer.data.randomness import mask_noise
from maws_composer.models.mae import MaeOutput, MaskedAutoencoder
from maws_composer.models.sizes import DecoderSize
from maws_composer.models.vit import VisionTransformer
from maws_composer.planning.workload import Workload, mae_workload
from maws_composer.registry import OneOf, lookup, register_stage
from maws_composer.stages.pixels import denormalize, normalize

if TYPE_CHECKING:
    from maws_composer.config.run import Run

Batch = Mapping[str, Any]


@register_stage("mae")
class MaeStage(ComposerModel):
    """Reconstruct the hidden patches of an image from the visible ones.

    Args:
        size: the encoder, by name.
        image_size: side of the square crop, in pixels.
        mask_ratio: share of the patches that are hidden.
        norm_pix_loss: predict each patch normalized by its own mean and deviation.
        qk_norm: LayerNorm on queries and keys; the released weights have none.
        decoder: the decoder's shape; 512 x 8 x 16 for every encoder (for 2B and 6.5B inferred).
    """

    columns: tuple[str, ...] = ()
    encoder_prefix = "mae.encoder."

    def __init__(
        self,
        size: Annotated[str, OneOf("size")],
        image_size: Annotated[int, Field(gt=0)] = 224,
        mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75,
        norm_pix_loss: bool = True,
        qk_norm: bool = False,
        decoder: DecoderSize = DecoderSize(),  # noqa: B008 (it is frozen)
        *,
        run: Run,
    ) -> None:
        super().__init__()
        self.seed = run.seed
        encoder = VisionTransformer(lookup("size", size).builder, image_size, fixed_positions=True, qk_norm=qk_norm)
        self.mae = MaskedAutoencoder(encoder, decoder, mask_ratio, norm_pix_loss)
        with torch.device("cpu"):  # stages are built on the meta device, metrics have to be real
            self.eval_loss = MeanMetric()

    @staticmethod
    def workload(
        size: str, image_size: int, mask_ratio: float, decoder: DecoderSize, qk_norm: bool, norm_pix_loss: bool
    ) -> Workload:
        """What this costs, without building it."""
        return mae_workload(lookup("size", size).builder, image_size, mask_ratio, decoder, qk_norm)

    def forward(self, batch: Batch) -> MaeOutput:
        """Mask by (seed, epoch, position) of each sample: the same mask on any rank and in any microbatch."""
        noise = mask_noise(self.seed, batch["epoch"], batch["position"], self.mae.encoder.patch_embed.num_patches)
        return self.mae(normalize(batch["image"]), noise)

    def loss(self, outputs: MaeOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean over the hidden patches; every image has equally many, so that microbatches may be averaged."""
        return outputs.loss

    def eval_forward(self, batch: Batch, outputs: MaeOutput | None = None) -> MaeOutput:
        return self.forward(batch)

    def get_metrics(self, is_train: bool) -> dict[str, Metric]:
        return {} if is_train else {"loss": self.eval_loss}

    def update_metric(self, batch: Batch, outputs: MaeOutput, metric: Metric) -> None:
        """Rows that only fill the last batch weigh nothing."""
        metric.update(outputs.loss_per_sample, weight=batch["valid"].float())

    def reconstruct(self, batch: Batch, outputs: MaeOutput) -> tuple[Tensor, Tensor, Tensor]:
        """Originals, masked images and reconstructions, uint8 (batch, 3, height, width)."""
        images = normalize(batch["image"])
        masked, pasted = self.mae.reconstruct(images, outputs)
        return batch["image"], denormalize(masked), denormalize(pasted)

    def blocks(self) -> list[nn.Module]:
        """The repeated blocks in the order of the forward pass."""
        return [*self.mae.encoder.blocks, *self.mae.decoder_blocks]

    def initialize_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        self.mae.initialize_parameter(name.removeprefix("mae."), tensor, generator)
