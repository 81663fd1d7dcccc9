"""Whose names the tensors of a file have, and which names they have in our models.

In our models (`maws_composer.models`) the ViT is `encoder.`, whatever the model: beside it are mask_token and decoder_*
(MAE), head.* (a classifier), or text.*, image_projection.weight, text_projection.weight and logit_scale (LiT).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch

from maws_composer.config.build import build
from maws_composer.registry import lookup, names
from maws_composer.weights.dual_encoder import from_dual_encoder
from maws_composer.weights.formats import from_hf_vit
from maws_composer.weights.parts import ENCODER
from maws_composer.weights.torchtext import from_torchtext, to_torchtext
from maws_composer.weights.translation import Recipe, as_scalar, as_vector, prefixed, transposed

FIRST = "patch_embed.proj.weight"
HF_FIRST = "embeddings.patch_embeddings.projection.weight"
TORCHTEXT = "text_encoder.encoder.transformer."
_LIT = ".text_projection.weight"


class Layout(NamedTuple):
    """One way to name a model's tensors.

    Attributes:
        name: as `maws-composer inspect` says it.
        recipes: our names, out of those.
    """

    name: str
    recipes: Mapping[str, Recipe]


def layout_of(shapes: Mapping[str, torch.Size]) -> Layout | None:
    """None: there is no model that we know. A user's importers are asked first.

    Raises:
        ValueError: there are several encoders, or two importers know them.
    """
    if claimed := _imported(shapes):
        return claimed
    prefixes = {first: _before(first, shapes) for first in (FIRST, HF_FIRST)}
    found = sorted(prefix for several in prefixes.values() for prefix in several)
    if len(found) > 1:
        raise ValueError(f"has several encoders: {', '.join(found)}")
    if not found:
        towerless = [name.removesuffix(_LIT[1:]) for name in shapes if name.endswith(_LIT)]
        return _ours(towerless[0], shapes) if len(towerless) == 1 else None
    if prefixes[HF_FIRST]:
        return _hugging_face(found[0], shapes)
    if found[0] == "vision_encoder.":
        return _maws_clip(shapes)
    if found[0].endswith("encoder."):
        return _ours(found[0].removesuffix("encoder."), shapes)
    return _timm(found[0], shapes)


def _imported(shapes: Mapping[str, torch.Size]) -> Layout | None:
    recipes = {name: build(lookup("importer", name), {}, None, shapes) for name in names("importer")}
    claims = [Layout(f"{name}, a plug-in", found) for name, found in recipes.items() if found is not None]
    if len(claims) > 1:
        raise ValueError(f"is taken by several importers: {', '.join(claim.name for claim in claims)}")
    return claims[0] if claims else None


def _before(first: str, tensors: Iterable[str]) -> list[str]:
    return [name.removesuffix(first) for name in tensors if f".{name}".endswith(f".{first}")]


def _ours(root: str, shapes: Mapping[str, torch.Size]) -> Layout:
    return Layout("maws_composer", {name.removeprefix(root): Recipe((name,)) for name in shapes})


def _timm(prefix: str, shapes: Mapping[str, torch.Size]) -> Layout:
    """timm's names are those of MAWS, and of the MAE authors, too."""
    inside = {name.removeprefix(prefix): Recipe((name,)) for name in shapes if name.startswith(prefix)}
    recipes = {f"encoder.{name}" if ENCODER.fullmatch(name) else name: recipe for name, recipe in inside.items()}
    if "mask_token" in inside:
        return Layout("facebookresearch/mae, pretraining with decoder", recipes)
    if "fc_norm.weight" in inside:
        return Layout("timm or facebookresearch/mae, fine-tuned on the mean of the patch tokens (fc_norm)", recipes)
    return Layout("timm, maws or facebookresearch/mae" + (", fine-tuned" if "head.weight" in inside else ""), recipes)


def _hugging_face(prefix: str, shapes: Mapping[str, torch.Size]) -> Layout:
    ending = ".attention.attention.query.weight"
    depth = sum(name.startswith(f"{prefix}encoder.layer.") and name.endswith(ending) for name in shapes)
    root = prefix.removesuffix("vit.")
    if "visual_projection.weight" in shapes:
        return Layout("Hugging Face VisionTextDualEncoder", from_dual_encoder(shapes, depth))
    recipes = prefixed(from_hf_vit(depth), "encoder.", prefix)
    beside = {"head": f"{root}classifier", "pooler.dense": f"{prefix}pooler.dense"}
    for ours, theirs in beside.items():
        recipes |= {f"{ours}.{kind}": Recipe((f"{theirs}.{kind}",)) for kind in ("weight", "bias")}
    return Layout("Hugging Face ViT", recipes)


def _maws_clip(shapes: Mapping[str, torch.Size]) -> Layout:
    tower = [name.removeprefix("vision_encoder.") for name in shapes if name.startswith("vision_encoder.")]
    text = [name.removeprefix(TORCHTEXT) for name in shapes if name.startswith(TORCHTEXT)]
    recipes = {
        **{f"encoder.{name}": Recipe((f"vision_encoder.{name}",)) for name in tower},
        **prefixed(from_torchtext(text), "text.", TORCHTEXT),
        "image_projection.weight": Recipe(("vision_projection",), transposed),
        "text_projection.weight": Recipe(("text_projection",), transposed),
        "logit_scale": Recipe(("logit_scale",), as_vector),
    }
    return Layout("maws_clip, text tower with torchtext's names", recipes)


def to_maws_clip(tensors: Iterable[str], text_depth: int) -> dict[str, Recipe]:
    """The tensors of a released MAWS-CLIP checkpoint, out of those of an ImageTextModel, named `tensors`."""
    tower = [name.removeprefix("encoder.") for name in tensors if name.startswith("encoder.")]
    return {
        **{f"vision_encoder.{name}": Recipe((f"encoder.{name}",)) for name in tower},
        **prefixed(to_torchtext(text_depth), TORCHTEXT, "text."),
        "vision_projection": Recipe(("image_projection.weight",), transposed),
        "text_projection": Recipe(("text_projection.weight",), transposed),
        "logit_scale": Recipe(("logit_scale",), as_scalar),
    }
