"""Which part of a model a tensor belongs to, by its name in our models (see `sources`)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

# Whatever changes an encoder's outputs, whether we have it or not: what we lack must not be left out in silence.
ENCODER = re.compile(
    r"cls_token|pos_embed|patch_embed\.proj\.(weight|bias)|blocks\.\d+\..+|(norm|fc_norm)\.(weight|bias)"
    r"|reg_token|dist_token|norm_pre\.(weight|bias)|attn_pool\..+"
)
_PARTS = {
    "mask token": re.compile(r"mask_token"),
    "decoder": re.compile(r"decoder_.+"),
    "text tower": re.compile(r"text\..+"),
    "projections": re.compile(r"(image|text)_projection\.weight"),
    "logit scale": re.compile(r"logit_(scale|bias)"),
    "head": re.compile(r"head\.(weight|bias)"),
    "pooler": re.compile(r"pooler\.dense\.(weight|bias)"),
}


def part_of(name: str) -> str:
    """The part's name, "other" if nobody knows it."""
    if name.startswith("encoder.") and ENCODER.fullmatch(name.removeprefix("encoder.")):
        return "encoder"
    return next((part for part, pattern in _PARTS.items() if pattern.fullmatch(name)), "other")


def by_part(names: Iterable[str]) -> str:
    """How many tensors each part has, in brackets: " (mask token 1, decoder 19)"; nothing of nothing."""
    parts = Counter(map(part_of, names))
    return f" ({', '.join(f'{part} {count}' for part, count in parts.items())})" if parts else ""
