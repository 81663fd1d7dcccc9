"""An encoder in the words of other libraries: names of tensors, and what their config.json has to say."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from maws_composer.models.attention import LAYER_NORM_EPS
from maws_composer.models.sizes import ViTSize
from maws_composer.stages.pixels import IMAGENET_MEAN, IMAGENET_STD
from maws_composer.weights.translation import Recipe, part, stack

_HF_NAMES = {
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
_HF_BLOCK_NAMES = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_KINDS = ("weight", "bias")


def timm_config(size: ViTSize, image_size: int, qk_norm: bool) -> dict[str, Any]:
    """For timm.create_model("local-dir:...", pretrained=True).

    timm has no name for the large sizes, so that every size is its base model with other arguments.
    """
    return {
        "architecture": "vit_base_patch16_224",
        "num_classes": 0,
        "num_features": size.width,
        "model_args": {
            "img_size": image_size,
            "patch_size": size.patch_size,
            "embed_dim": size.width,
            "depth": size.depth,
            "num_heads": size.heads,
            "num_classes": 0,
            "qk_norm": qk_norm,
        },
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [3, image_size, image_size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "mean": IMAGENET_MEAN,
            "std": IMAGENET_STD,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def hf_config(size: ViTSize, image_size: int) -> dict[str, Any]:
    """For transformers.ViTModel."""
    return {
        "architectures": ["ViTModel"],
        "model_type": "vit",
        "hidden_size": size.width,
        "num_hidden_layers": size.depth,
        "num_attention_heads": size.heads,
        "intermediate_size": 4 * size.width,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": LAYER_NORM_EPS,
        "image_size": image_size,
        "patch_size": size.patch_size,
        "num_channels": 3,
        "qkv_bias": True,
    }


def hf_preprocessor(image_size: int) -> dict[str, Any]:
    """For transformers.ViTImageProcessor: what the encoder was trained on."""
    return {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": image_size, "width": image_size},
        "resample": 3,  # bicubic
        "image_mean": IMAGENET_MEAN,
        "image_std": IMAGENET_STD,
    }


def to_hf_vit(depth: int) -> dict[str, Recipe]:
    """transformers.ViTModel's tensors out of timm's: queries, keys and values are three there."""
    recipes = {hf: Recipe((timm,)) for timm, hf in _hf_names(depth)}
    for joint, parts in _hf_attention(depth):
        recipes |= {name: Recipe((joint,), partial(part, which, 3)) for which, name in enumerate(parts)}
    return recipes


def from_hf_vit(depth: int) -> dict[str, Recipe]:
    """The inverse of `to_hf_vit`."""
    recipes = {timm: Recipe((hf,)) for timm, hf in _hf_names(depth)}
    return recipes | {joint: Recipe(parts, stack) for joint, parts in _hf_attention(depth)}


def _hf_names(depth: int) -> Iterator[tuple[str, str]]:
    yield "cls_token", "embeddings.cls_token"
    yield "pos_embed", "embeddings.position_embeddings"
    for kind in _KINDS:
        for timm, hf in _HF_NAMES.items():
            yield f"{timm}.{kind}", f"{hf}.{kind}"
        for number in range(depth):
            for timm, hf in _HF_BLOCK_NAMES.items():
                yield f"blocks.{number}.{timm}.{kind}", f"encoder.layer.{number}.{hf}.{kind}"


def _hf_attention(depth: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    for kind in _KINDS:
        for number in range(depth):
            attention = f"encoder.layer.{number}.attention.attention"
            parts = tuple(f"{attention}.{which}.{kind}" for which in ("query", "key", "value"))
            yield f"blocks.{number}.attn.qkv.{kind}", parts
