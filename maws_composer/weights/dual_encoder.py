"""An image-text model as transformers.VisionTextDualEncoderModel, which has poolers: a linear layer and a tanh.

Ours has none. But tanh(x) is x up to x^3 / 3: a pooler that shrinks the class token by 2^13 is, with a projection that
enlarges it again, the identity within the rounding of fp32 (5e-9 of an entry of 1, 4e-6 of one of 30). Powers of two
do not round. Larger ones would leave no room in fp16.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from maws_composer.models.sizes import ViTSize
from maws_composer.weights.formats import hf_config, to_hf_vit
from maws_composer.weights.layouts import as_scalar
from maws_composer.weights.translation import Recipe, prefixed

_SHRINK = 2.0**-13
_POOLER = "pooler.dense"


def dual_encoder_config(size: ViTSize, image_size: int, text: dict[str, Any], embed_dim: int) -> dict[str, Any]:
    """For VisionTextDualEncoderModel; `text` is the text tower's config.json."""
    return {
        "architectures": ["VisionTextDualEncoderModel"],
        "model_type": "vision-text-dual-encoder",
        "projection_dim": embed_dim,
        "vision_config": hf_config(size, image_size),
        "text_config": text,
    }


def to_dual_encoder(names: Iterable[str], depth: int) -> dict[str, Recipe]:
    """VisionTextDualEncoderModel's tensors, out of an ImageTextModel's `names` whose ViT has `depth` blocks."""
    tower = {f"text_model.{name.removeprefix('text.')}": Recipe((name,)) for name in names if name.startswith("text.")}
    return {
        **prefixed(to_hf_vit(depth), "vision_model.", "encoder."),
        **_pooler("vision_model", "image_projection.weight"),
        "visual_projection.weight": Recipe(("image_projection.weight",), _enlarged),
        **tower,
        **_pooler("text_model", "text_projection.weight"),
        "text_projection.weight": Recipe(("text_projection.weight",), _enlarged),
        "logit_scale": Recipe(("logit_scale",), as_scalar),
    }


def has_tanh_pooler(config: Any) -> bool:
    """Whether the encoder that transformers makes of this configuration has such a pooler."""
    from transformers import AutoModel

    with torch.device("meta"):
        tower = AutoModel.from_config(config)
    pooler = getattr(tower, "pooler", None)
    return isinstance(getattr(pooler, "activation", None), torch.nn.Tanh) and hasattr(pooler, "dense")


def _pooler(model: str, projection: str) -> dict[str, Recipe]:
    return {
        f"{model}.{_POOLER}.weight": Recipe((projection,), _shrinking),
        f"{model}.{_POOLER}.bias": Recipe((projection,), _nothing),
    }


def _shrinking(projection: Tensor) -> Tensor:
    return _SHRINK * torch.eye(projection.shape[1], dtype=projection.dtype, device=projection.device)


def _nothing(projection: Tensor) -> Tensor:
    return projection.new_zeros(projection.shape[1])


def _enlarged(projection: Tensor) -> Tensor:
    return projection / _SHRINK
