"""Contrastive batches larger than memory, in two passes (Gao et al. 2021, "Scaling deep contrastive learning").

The loss of the global batch needs all embeddings at once, and so little else: pass one embeds a GPU's share in
microbatches without keeping activations, and finds the loss and its gradient with respect to each embedding. Pass two
is Composer's: it embeds each microbatch again, and lets that gradient through.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from composer.core import Callback, State, get_precision_context
from composer.loggers import Logger
from jaxtyping import Float
from torch import Tensor

from maws_composer.data.batches import split_batch
from maws_composer.data.columns import IMAGE_EMBEDDING
from maws_composer.models.clip import Embeddings, ImageTextModel
from maws_composer.models.contrastive import RowLoss, global_loss_and_gradients

log = logging.getLogger(__name__)

Batch = Mapping[str, Any]


class GradientCaching(Callback):
    """Pass one, where a GPU's share of the batch does not go through it whole; and the bounds of the temperature.

    Args:
        clip: the model.
        embed_images: the locked image tower's output for a batch, computed in pass one only. None: it is trained, and
            runs in both.
        of_rows: the loss of a row of logits.
    """

    def __init__(self, clip: ImageTextModel, embed_images: Callable[[Batch], Tensor] | None, of_rows: RowLoss) -> None:
        self._clip = clip
        self._embed_images = embed_images
        self._of_rows = of_rows

    def batch_start(self, state: State, logger: Logger) -> None:
        size = state.device_train_microbatch_size
        assert isinstance(size, int)
        if len(state.batch["valid"]) <= size:
            return  # one pass will do: `global_loss` looks at all ranks' embeddings, and has their activations
        batch = state.device.batch_to_device(state.batch)
        with get_precision_context(state.precision, state.precision_config):
            whole, embedded = embed_whole(state.model, batch, size, self._embed_images)
        state.batch = {**embedded, **cached_gradients(whole, self._of_rows)}

    def batch_end(self, state: State, logger: Logger) -> None:
        logger.log_metrics({"logit_scale/exp": state.outputs.scale.item()})
        self._clip.clamp_scale()


@torch.no_grad()
def embed_whole(
    embed: Callable[[Batch], Embeddings], batch: Batch, size: int, embed_images: Callable[[Batch], Tensor] | None
) -> tuple[Embeddings, Batch]:
    """All embeddings of a rank's share, in microbatches of `size`, as pass two will make them.

    Returns:
        The embeddings; and the batch, with the image tower's output if that need not be computed again.
    """
    microbatches = split_batch(batch, size)
    if embed_images is not None and IMAGE_EMBEDDING not in batch:
        for part in microbatches:
            part[IMAGE_EMBEDDING] = embed_images(part)
        batch = {**batch, IMAGE_EMBEDDING: torch.cat([part[IMAGE_EMBEDDING] for part in microbatches])}
    pairs = [embed(part) for part in microbatches]
    image, text = (torch.cat(rows) for rows in zip(*(some[:2] for some in pairs), strict=True))
    return Embeddings(image, text, pairs[0].scale, pairs[0].bias), batch


def cached_gradients(whole: Embeddings, of_rows: RowLoss) -> dict[str, Tensor]:
    """What `cached_loss` needs, as columns of a batch, so that it is cut into microbatches like the rest."""
    loss, gradients = global_loss_and_gradients(whole, of_rows)
    rows = len(whole.image)
    columns = {"loss": loss, "scale": gradients.scale, "bias": gradients.bias}
    return {
        # times the rows, because Composer averages over them
        "gradient/image": rows * gradients.image,
        "gradient/text": rows * gradients.text,
        **{f"gradient/{name}": value.expand(rows) for name, value in columns.items() if value is not None},
    }


def is_cached(batch: Batch) -> bool:
    """Whether pass one has seen the batch."""
    return "gradient/loss" in batch


def cached_loss(pairs: Embeddings, batch: Batch) -> Float[Tensor, ""]:
    """Has the value of the global loss, and its gradient with respect to this microbatch's embeddings."""
    rows = (pairs.image * batch["gradient/image"]).sum(1) + (pairs.text * batch["gradient/text"]).sum(1)
    through = rows.mean() + pairs.scale[0] * batch["gradient/scale"][0]
    if pairs.bias is not None:
        through = through + pairs.bias[0] * batch["gradient/bias"][0]
    return through + (batch["gradient/loss"][0] - through).detach()
