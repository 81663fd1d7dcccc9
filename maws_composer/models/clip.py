"""Image and text in one space: two towers, each with a projection without bias, and a learned temperature."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.functional import normalize

from maws_composer.models.text_tower import initialize_text_parameter, mask_for
from maws_composer.models.vit import VisionTransformer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INITIAL_SCALE = 1 / 0.07  # CLIP's, and the released MAWS-CLIP code's
LARGEST_SCALE = 100.0


class Embeddings(NamedTuple):
    """What a loss looks at.

    Attributes:
        image, text: of unit length, fp32.
        scale: what cosines are multiplied by.
        bias: what is added then; None for losses without one.
    """

    image: Float[Tensor, "batch embed"]
    text: Float[Tensor, "batch embed"]
    scale: Float[Tensor, " 1"]
    bias: Float[Tensor, " 1"] | None


class ImageTextModel(nn.Module):
    """CLIP (Radford et al. 2021) with a text tower of transformers, as MAWS-CLIP has it.

    Names in the state: `encoder.<name>` is `<name>` of the ViT, `text.<name>` that of transformers' encoder; the
    released `vision_projection` and `text_projection` are our weights' transposes; `logit_scale` has shape (1,),
    because FSDP shards no scalars.

    Args:
        encoder: the image tower. None: image embeddings are given.
        text: the text tower.
        embed_dim: width of the common space.
        image_width: of image embeddings, where there is no encoder.
        initial_scale: `exp(logit_scale)` at the start.
        initial_bias: what is added to the logits at the start, then learned (SigLIP). None: no such parameter.
    """

    # Besides `forward`, what gathers sharded parameters when it is called.
    forward_methods = ("encode_image", "encode_image_embedding", "encode_text", "embed_image")

    def __init__(
        self,
        encoder: VisionTransformer | None,
        text: PreTrainedModel,
        embed_dim: int,
        *,
        image_width: int | None = None,
        initial_scale: float = INITIAL_SCALE,
        initial_bias: float | None = None,
    ) -> None:
        super().__init__()
        width = encoder.size.width if encoder is not None else image_width
        if width is None:
            raise ValueError("without an encoder, image_width has to say how wide image embeddings are")
        self.encoder = encoder
        self.text = text
        self.image_projection = nn.Linear(width, embed_dim, bias=False)
        self.text_projection = nn.Linear(text.config.hidden_size, embed_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.full((1,), math.log(initial_scale)))
        self.logit_bias = nn.Parameter(torch.full((1,), initial_bias)) if initial_bias is not None else None
        self.is_encoder_locked = False
        self._initial = {"logit_scale": math.log(initial_scale), "logit_bias": initial_bias or 0.0}

    def lock_encoder(self) -> None:
        """Keep the image tower as it is: no gradient, and in evaluation mode whatever the rest is in."""
        self.is_encoder_locked = True
        if self.encoder is not None:
            self.encoder.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> ImageTextModel:
        super().train(mode)
        if self.encoder is not None and self.is_encoder_locked:
            self.encoder.eval()
        return self

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Int[Tensor, "batch tokens"],
        images: Float[Tensor, "batch 3 height width"] | None = None,
        image_embedding: Float[Tensor, "batch width"] | None = None,
    ) -> Embeddings:
        """Pairs, from images or from the image tower's output."""
        if image_embedding is None:
            assert images is not None, "neither images nor image embeddings"
            image_embedding = self._run_encoder(images)
        image = self._project_image(image_embedding)
        text = self._embed_text(input_ids, attention_mask)
        # plus nothing: outputs that are parameters themselves would lose FSDP's hooks
        bias = None if self.logit_bias is None else self.logit_bias + 0.0
        return Embeddings(image, text, self.logit_scale.exp(), bias)

    def embed_image(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch width"]:
        """The image tower's output for normalized images: the class token after the final norm, not projected."""
        return self._run_encoder(images)

    def encode_image(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch embed"]:
        """Normalized images, as unit vectors in fp32."""
        return self._project_image(self._run_encoder(images))

    def encode_image_embedding(self, embedding: Float[Tensor, "batch width"]) -> Float[Tensor, "batch embed"]:
        """The image tower's output, as unit vectors in fp32."""
        return self._project_image(embedding)

    def encode_text(
        self, input_ids: Int[Tensor, "batch tokens"], attention_mask: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch embed"]:
        """Texts by their tokens, as unit vectors in fp32: the last hidden state of the first token, projected."""
        return self._embed_text(input_ids, attention_mask)

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """Keep `exp(logit_scale)` between 1 and 100 (CLIP); call it after each step of the optimizer."""
        scale = self.logit_scale.to_local() if isinstance(self.logit_scale, DTensor) else self.logit_scale
        scale.clamp_(0.0, math.log(LARGEST_SCALE))

    def initialize_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        """Fill the whole (unsharded) parameter in place. Raises ValueError for a name without a rule."""
        part, _, rest = name.partition(".")
        if part == "encoder" and self.encoder is not None:
            self.encoder.initialize_parameter(rest, tensor, generator)
        elif part == "text":
            initialize_text_parameter(self.text, rest, tensor, generator)
        elif part in ("image_projection", "text_projection"):
            tensor.normal_(std=tensor.shape[1] ** -0.5, generator=generator)
        elif name in self._initial:
            tensor.fill_(self._initial[name])
        else:
            raise ValueError(f"no rule says how to initialize parameter {name}")

    # The methods that FSDP knows do not call one another: it would gather and drop parameters twice.
    def _run_encoder(self, images: Tensor) -> Tensor:
        if self.encoder is None:
            raise ValueError("this model was built without its image tower: give it image embeddings")
        return self.encoder(images)

    def _project_image(self, embedding: Tensor) -> Tensor:
        return normalize(self.image_projection(embedding).float(), dim=-1)

    def _embed_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = mask_for(self.text, attention_mask)
        hidden = self.text(input_ids=input_ids, attention_mask=mask).last_hidden_state
        return normalize(self.text_projection(hidden[:, 0]).float(), dim=-1)
