"""Stage 3: LiT, a text tower for a locked image tower (Zhai et al. 2022; Singh et al. 2023, section 3.3)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import torch
from composer.core import Callback
from composer.models import ComposerModel
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torchmetrics import Metric

from maws_composer.data.columns import CAPTION, IMAGE_EMBEDDING
from maws_composer.data.own_text import has_dropout
from maws_composer.data.randomness import Purpose, sample_words
from maws_composer.models.clip import Embeddings, ImageTextModel
from maws_composer.models.contrastive import ContrastiveLoss, global_loss
from maws_composer.models.text_tower import TextSettings, text_layers
from maws_composer.models.vit import VisionTransformer
from maws_composer.planning.workload import Workload, lit_workload
from maws_composer.registry import OneOf, lookup, register_stage
from maws_composer.stages.gradient_caching import GradientCaching, cached_loss, is_cached
from maws_composer.stages.pair_metrics import HeldOutPairs, RetrievalRecall
from maws_composer.stages.pixels import normalize
from maws_composer.stages.text import build_text, text_workload

if TYPE_CHECKING:
    from maws_composer.config.run import Run

Batch = Mapping[str, Any]

log = logging.getLogger(__name__)


@register_stage("lit")
class LitStage(ComposerModel):
    """Tell which text belongs to which image, among all of the global batch.

    Metrics, over all held-out pairs: the loss, and recall@1 and @5 of texts for images and of images for texts.

    Args:
        size: the image tower, by name.
        image_size: side of the square images, in pixels.
        qk_norm: LayerNorm on the image tower's queries and keys; the released weights have none.
        text: the text tower.
        embed_dim: width of the common space.
        lock_image_tower: leave the image tower as `initialize_from` has it.
        lock_image_projection: leave the image side's projection as it is drawn.
        loss: `softmax` (CLIP) or `sigmoid` (SigLIP).
        image_embeddings: read the image tower's outputs, computed before, instead of images; it is not built then.
    """

    encoder_prefix = "clip.encoder."

    def __init__(
        self,
        size: Annotated[str, OneOf("size")],
        image_size: Annotated[int, Field(gt=0)] = 224,
        qk_norm: bool = False,
        text: TextSettings = TextSettings(),  # noqa: B008 (it is frozen)
        embed_dim: Annotated[int, Field(gt=0)] = 1024,
        lock_image_tower: bool = True,
        lock_image_projection: bool = False,
        loss: Annotated[str, OneOf("loss")] = "softmax",
        image_embeddings: bool = False,
        *,
        run: Run,
    ) -> None:
        super().__init__()
        _check(lock_image_tower, image_embeddings)
        shape, pairs_loss = lookup("size", size).builder, lookup("loss", loss).builder
        assert isinstance(pairs_loss, ContrastiveLoss)
        encoder = None if image_embeddings else VisionTransformer(shape, image_size, qk_norm=qk_norm)
        self.clip = ImageTextModel(
            encoder,
            build_text(text),
            embed_dim,
            image_width=shape.width,
            initial_scale=pairs_loss.initial_scale,
            initial_bias=pairs_loss.initial_bias,
        )
        if lock_image_tower:
            self.clip.lock_encoder()
        self.clip.image_projection.requires_grad_(not lock_image_projection)
        self.columns = self.reads(image_embeddings)
        self.seed = run.seed
        self._draws = text.dropout > 0 or has_dropout(self.clip.text)
        self.of_rows = pairs_loss.of_rows
        if self.leaves_out_encoder(lock_image_tower, image_embeddings):
            self.register_state_dict_post_hook(_leave_out_encoder)
            self.register_load_state_dict_post_hook(_expect_no_encoder)
        with torch.device("cpu"):  # stages are built on the meta device, metrics have to be real
            pairs = HeldOutPairs(self.of_rows)
            self.metrics = nn.ModuleDict(
                {
                    "loss": pairs,
                    "image_to_text_recall@1": RetrievalRecall(pairs, 1, of_texts=False),
                    "image_to_text_recall@5": RetrievalRecall(pairs, 5, of_texts=False),
                    "text_to_image_recall@1": RetrievalRecall(pairs, 1, of_texts=True),
                    "text_to_image_recall@5": RetrievalRecall(pairs, 5, of_texts=True),
                }
            )

    @staticmethod
    def reads(image_embeddings: bool, **others: Any) -> tuple[str, ...]:
        """Columns besides id, and image unless there are image embeddings."""
        return (CAPTION, IMAGE_EMBEDDING) if image_embeddings else (CAPTION,)

    @staticmethod
    def leaves_out_encoder(lock_image_tower: bool, image_embeddings: bool, **others: Any) -> bool:
        """Whether checkpoints are without the image tower, because it stays as it came."""
        return lock_image_tower and not image_embeddings

    @staticmethod
    def workload(
        size: str,
        image_size: int,
        qk_norm: bool,
        text: TextSettings,
        embed_dim: int,
        lock_image_tower: bool,
        lock_image_projection: bool,
        loss: str,
        image_embeddings: bool,
    ) -> Workload:
        """What this costs, without building it."""
        _check(lock_image_tower, image_embeddings)
        return lit_workload(
            lookup("size", size).builder,
            image_size,
            qk_norm,
            text_workload(text),
            embed_dim,
            has_bias=lookup("loss", loss).builder.initial_bias is not None,
            lock_image_tower=lock_image_tower,
            lock_image_projection=lock_image_projection,
            image_embeddings=image_embeddings,
        )

    def forward(self, batch: Batch) -> Embeddings:
        embedding = batch.get(IMAGE_EMBEDDING)
        if embedding is None and self.clip.is_encoder_locked:
            # in a call of its own, or FSDP would fetch the tower's last block for a backward pass that never comes
            embedding = self._embed_images(batch)
        with self._dropout_of(batch):
            return self.clip(
                batch["input_ids"],
                batch["attention_mask"],
                images=normalize(batch["image"]) if embedding is None else None,
                image_embedding=embedding,
            )

    def loss(self, outputs: Embeddings, batch: Batch) -> Float[Tensor, ""]:
        """This rank's part of the loss of the global batch; every microbatch has the value of all of them."""
        return cached_loss(outputs, batch) if is_cached(batch) else global_loss(outputs, self.of_rows)

    def eval_forward(self, batch: Batch, outputs: Embeddings | None = None) -> Embeddings:
        return self.forward(batch)

    def get_metrics(self, is_train: bool) -> dict[str, Metric]:
        return {} if is_train else dict(self.metrics.items())

    def update_metric(self, batch: Batch, outputs: Embeddings, metric: Metric) -> None:
        """Rows that only fill the last batch, or stand in for a sample that cannot be used, weigh nothing."""
        metric.update(outputs, batch["valid"] & ~batch["replaced"], batch["caption"])

    def callbacks(self) -> list[Callback]:
        """What of a step lies outside of forward and loss."""
        if self._draws:
            log.warning(
                "the text tower has dropout: on other numbers of GPUs or microbatches the order of the data is exact, "
                "the losses are equal in distribution only"
            )
        return [GradientCaching(self.clip, self._embed_images if self.clip.is_encoder_locked else None, self.of_rows)]

    def blocks(self) -> list[nn.Module]:
        """The repeated blocks in the order of the forward pass."""
        images = [] if self.clip.encoder is None else [*self.clip.encoder.blocks]
        return [*images, *text_layers(self.clip.text)]

    def initialize_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        self.clip.initialize_parameter(name.removeprefix("clip."), tensor, generator)

    @torch.no_grad()
    def _embed_images(self, batch: Batch) -> Float[Tensor, "batch width"]:
        return self.clip.embed_image(normalize(batch["image"]))

    @contextmanager
    def _dropout_of(self, batch: Batch) -> Iterator[None]:
        """Dropout as a function of a microbatch's first sample: the same in both passes of gradient caching."""
        if not (self.training and self._draws):
            yield
            return
        device = batch["input_ids"].device
        epoch, position = int(batch["epoch"][0]), int(batch["position"][0])
        high, low, *_ = sample_words(self.seed, epoch, position, Purpose.DROPOUT)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(high << 31 | low >> 1)
            yield


def _check(lock_image_tower: bool, image_embeddings: bool) -> None:
    if image_embeddings and not lock_image_tower:
        raise ValueError("image_embeddings: they are of a locked tower; set lock_image_tower=true, or train on images")


def _leave_out_encoder(stage: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """A checkpoint does not repeat what does not change."""
    for name in [name for name in state if name.startswith(f"{prefix}{LitStage.encoder_prefix}")]:
        del state[name]


def _expect_no_encoder(stage: nn.Module, keys: Any) -> None:
    keys.missing_keys[:] = [name for name in keys.missing_keys if not name.startswith(LitStage.encoder_prefix)]
