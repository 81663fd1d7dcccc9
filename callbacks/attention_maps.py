"""Pictures of what an encoder looks at."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import torch
from composer.core import Callback, State, get_precision_context
from composer.loggers import Logger
from composer.utils import dist
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor

from maws_composer.config.problems import Problem
from maws_composer.config.run import Run
from maws_composer.evaluation.pictured import all_over, everybodys, rows_of
from maws_composer.models.attention import Block
from maws_composer.models.vit import VisionTransformer
from maws_composer.parallel.shard import way_in
from maws_composer.registry import register_callback
from maws_composer.reporting.encoder_pictures import attention_over, draw_tiles
from maws_composer.stages.build import encoder_of, no_encoder
from maws_composer.stages.pixels import normalize

KEY = "callbacks.attention_maps"
COLUMNS, TILE = 8, 112  # four images beside each other


@register_callback("attention_maps")
class AttentionMaps(Callback):
    """Draws the attention of the class token in the encoder's last block, averaged over heads, over held-out images.

    They are from all over `data.eval`, the same ones in every evaluation, on any number of processes. The encoder sees
    whole images, in MAE too. The kernels keep no attention weights: those of this one block are computed from its
    queries and keys.

    Args:
        images: how many.
    """

    def __init__(self, images: Annotated[int, Field(gt=0)] = 8, *, run: Run) -> None:
        self.images, self.run = images, run

    def preflight(self) -> list[Problem]:
        """Whether there are images, and something that looks at them."""
        if self.run.data.eval is None:
            return [Problem(KEY, "needs held-out images; set data.eval")]
        return no_encoder(self.run, KEY)

    def init(self, state: State, logger: Logger) -> None:
        encoder = encoder_of(state.model, KEY)
        self.attention = way_in(state.model, encoder, "class_attention", partial(class_attention, encoder))

    def eval_start(self, state: State, logger: Logger) -> None:
        self.positions = all_over(state.dataloader.dataset.order.samples, self.images)
        self.seen: dict[int, Tensor] = {}  # by this rank

    def eval_batch_end(self, state: State, logger: Logger) -> None:
        for position, row in rows_of(state.batch, self.positions).items():
            self.seen[position] = state.batch["image"][row].cpu()

    @torch.no_grad()
    def eval_end(self, state: State, logger: Logger) -> None:
        images = everybodys(self.seen)
        if images is None:
            return
        with get_precision_context(state.precision):  # all ranks: FSDP gathers the encoder
            attention = self.attention(state.device.tensor_to_device(images))
        if dist.get_global_rank() == 0:
            picture = draw_tiles(attention_over(images, attention.cpu()), COLUMNS, TILE)
            logger.log_images(picture, "attention", channels_last=True)


def class_attention(
    encoder: VisionTransformer, images: UInt8[Tensor, "batch 3 height width"]
) -> Float[Tensor, "batch patches"]:
    """The share of the class token's attention that each patch gets in the last block, averaged over heads."""
    found: list[Tensor] = []

    def look(block: Block, arguments: tuple[Any, ...]) -> None:
        found.append(attention_weights(block, arguments[0]))

    # Before the block, but after FSDP has gathered it; within a compiled block no hook would be called.
    hook = encoder.blocks[-1].register_forward_pre_hook(look)
    try:
        encoder.forward_features(normalize(images))
    finally:
        hook.remove()
    return found[0][:, :, 0, 1:].mean(1)


def attention_weights(
    block: Block, tokens: Float[Tensor, "batch tokens width"]
) -> Float[Tensor, "batch heads tokens tokens"]:
    """Softmax of queries by keys, which the fused kernels keep to themselves, in fp32."""
    attention, (batch, count, _) = block.attn, tokens.shape
    packed = attention.qkv(block.norm1(tokens)).view(batch, count, 3, attention.heads, attention.head_dim)
    queries, keys, _ = packed.transpose(1, 3).unbind(2)
    queries, keys = attention.q_norm(queries).float(), attention.k_norm(keys).float()
    return (queries @ keys.transpose(-2, -1) * attention.head_dim**-0.5).softmax(-1)
