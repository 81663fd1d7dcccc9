"""An encoder in the words of other libraries: names of tensors, and what their config.json has to say."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from maws_composer.models.attention import LAYER_NORM_EPS
from maws_composer.models.sizes import ViTSize
from maws_composer.stages.pixels import IMAGENET_MEAN, IMAGENET_STD

_HF_NAMES = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
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


def hf_tensors(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """One tensor of timm's as transformers.ViTModel has it: queries, keys and values are three."""
    module, _, kind = name.rpartition(".")
    if not name.startswith("blocks."):
        return {_HF_NAMES[name]: tensor} if name in _HF_NAMES else {f"{_HF_NAMES[module]}.{kind}": tensor}
    _, number, part = module.split(".", 2)
    layer = f"encoder.layer.{number}"
    if part == "attn.qkv":
        parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
        return {f"{layer}.attention.attention.{which}.{kind}": rows.clone() for which, rows in parts}
    return {f"{layer}.{_HF_BLOCK_NAMES[part]}.{kind}": tensor}
