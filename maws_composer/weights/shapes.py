"""What the shapes of a ViT's tensors tell, and how two ViTs differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from maws_composer.registry import lookup, names
from maws_composer.weights.layouts import FIRST
from maws_composer.weights.parts import part_of

Shapes = Mapping[str, torch.Size]

_SHOWN = 6  # tensors that disagree
_OR_RESIZE = ", or set initialize_resize=true"


def vit_shape(shapes: Shapes) -> tuple[int, int, int]:
    """Width, depth and patch size."""
    width, _, patch, _ = shapes[FIRST]
    return width, len({name.split(".")[1] for name in shapes if name.startswith("blocks.")}), patch


def image_size(shapes: Shapes) -> int:
    """Side in pixels of the square images that the positions are for."""
    return math.isqrt(shapes["pos_embed"][1] - 1) * vit_shape(shapes)[2]


def sizes_of_shape(shapes: Shapes) -> dict[str, Any]:
    """The registered sizes that look like this, by name."""
    sizes = {name: lookup("size", name).builder for name in names("size")}
    shape = vit_shape(shapes)
    return {name: size for name, size in sizes.items() if (size.width, size.depth, size.patch_size) == shape}


def show(shapes: Shapes, name: str) -> str:
    return " x ".join(str(length) for length in shapes[name]) if name in shapes else "none"


def disagreement(address: str, theirs: Shapes, ours: Shapes) -> str | None:
    """The tensors that differ in shape, or that one side lacks, and what that looks like; None if all agree."""
    disagreeing = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if not disagreeing:
        return None
    lines = [
        f"{name.removeprefix('encoder.')}: {show(theirs, name)} there, {show(ours, name)} here" for name in disagreeing
    ]
    if len(lines) > _SHOWN:
        lines[_SHOWN:] = [f"... and {len(lines) - _SHOWN} more"]
    hint = _hint(_tower(theirs), _tower(ours)) or _hint_of_part(part_of(disagreeing[0]))
    head = f"{address} does not fit, {len(disagreeing)} tensors disagree{hint}"
    return "\n".join([head, *lines])


def _tower(shapes: Shapes) -> Shapes:
    return {name.removeprefix("encoder."): shape for name, shape in shapes.items()}


def _hint(theirs: Shapes, ours: Shapes) -> str:
    """What the difference looks like, as the end of a sentence."""
    if not {FIRST, "pos_embed"} <= set(theirs) & set(ours):
        return ""
    shape, here = vit_shape(theirs), vit_shape(ours)
    if shape != here:
        width, depth, patch = shape
        known = " or ".join(sizes_of_shape(theirs)) or f"{width} wide, {depth} deep, with patches of {patch}"
        return f": it is {known}; see model.size" + (_OR_RESIZE if shape[:2] == here[:2] else "")
    if any(".q_norm." in name for name in theirs) != any(".q_norm." in name for name in ours):
        return "; see model.qk_norm"
    if "fc_norm.weight" in theirs:
        return ": it was fine-tuned on the mean of the patch tokens, and has no norm of the class token"
    if theirs["pos_embed"] != ours["pos_embed"]:
        return f": its positions are those of {image_size(theirs)} px images; see model.image_size{_OR_RESIZE}"
    return ""


def _hint_of_part(part: str) -> str:
    key = {"decoder": "model.decoder", "mask token": "model.decoder", "head": "model.num_classes"}.get(part)
    return f"; see {key}" if key else ""
