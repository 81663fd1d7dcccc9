"""The text tower of MAWS-CLIP: torchtext's RobertaEncoder and Hugging Face's XLMRobertaModel, name by name.

torchtext renamed its layers once; files of both generations are read, the younger one is written. Source:
torchtext/models/roberta/modules.py. Neither library is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial
from typing import NamedTuple

from torch import Tensor

from maws_composer.weights.translation import Recipe, part, stack

_POSITIONS = "embeddings.position_embeddings.weight"
_TOKEN_TYPES = "embeddings.token_type_embeddings.weight"
_NORM = "embeddings.LayerNorm.weight"
_EMBEDDINGS = {  # ours -> torchtext's
    "embeddings.word_embeddings.weight": "token_embedding.weight",
    _POSITIONS: "positional_embedding.embedding.weight",
    _NORM: "embedding_layer_norm.weight",
    "embeddings.LayerNorm.bias": "embedding_layer_norm.bias",
}


class _Generation(NamedTuple):
    """How torchtext calls the parts of a layer."""

    layer: str
    attention: dict[str, str]  # weight and bias of queries, keys and values, one below the other
    parts: dict[str, str]


_YOUNGER = _Generation(
    layer="layers.layers.{}",
    attention={"weight": "self_attn.in_proj_weight", "bias": "self_attn.in_proj_bias"},
    parts={
        "attention.output.dense": "self_attn.out_proj",
        "attention.output.LayerNorm": "norm1",
        "intermediate.dense": "linear1",
        "output.dense": "linear2",
        "output.LayerNorm": "norm2",
    },
)
_OLDER = _Generation(
    layer="layers.{}",
    attention={"weight": "attention.input_projection.weight", "bias": "attention.input_projection.bias"},
    parts={
        "attention.output.dense": "attention.output_projection",
        "attention.output.LayerNorm": "attention_layer_norm",
        "intermediate.dense": "residual_mlp.mlp.0",
        "output.dense": "residual_mlp.mlp.3",
        "output.LayerNorm": "final_layer_norm",
    },
)


def from_torchtext(names: Collection[str]) -> dict[str, Recipe]:
    """Hugging Face's tensors out of torchtext's.

    Args:
        names: torchtext's, without text_encoder.encoder.transformer.
    """
    is_old = any(name.startswith("layers.0.") for name in names)
    generation = _OLDER if is_old else _YOUNGER
    recipes = {ours: Recipe((theirs,)) for ours, theirs in _names(generation, _depth(names, generation))}
    for joint, parts in _attention(generation, _depth(names, generation)):
        recipes |= {name: Recipe((joint,), partial(part, which, 3)) for which, name in enumerate(parts)}
    return recipes | {_TOKEN_TYPES: Recipe((_EMBEDDINGS[_NORM],), _no_token_types)}


def to_torchtext(depth: int) -> dict[str, Recipe]:
    """torchtext's tensors out of Hugging Face's, of a tower of `depth` layers.

    What Hugging Face adds to every token for being of type 0 is added to the positions, of which every token has one.
    """
    recipes = {theirs: Recipe((ours,)) for ours, theirs in _names(_YOUNGER, depth)}
    recipes |= {joint: Recipe(parts, stack) for joint, parts in _attention(_YOUNGER, depth)}
    return recipes | {_EMBEDDINGS[_POSITIONS]: Recipe((_POSITIONS, _TOKEN_TYPES), _with_token_types)}


def _names(generation: _Generation, depth: int) -> Iterator[tuple[str, str]]:
    yield from _EMBEDDINGS.items()
    for number in range(depth):
        layer = generation.layer.format(number)
        for ours, theirs in generation.parts.items():
            for kind in ("weight", "bias"):
                yield f"encoder.layer.{number}.{ours}.{kind}", f"{layer}.{theirs}.{kind}"


def _attention(generation: _Generation, depth: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    for number in range(depth):
        for kind, joint in generation.attention.items():
            attention = f"encoder.layer.{number}.attention.self"
            parts = tuple(f"{attention}.{which}.{kind}" for which in ("query", "key", "value"))
            yield f"{generation.layer.format(number)}.{joint}", parts


def _depth(names: Collection[str], generation: _Generation) -> int:
    norm = generation.parts["output.LayerNorm"]
    return sum(name.startswith("layers.") and name.endswith(f".{norm}.weight") for name in names)


def _no_token_types(norm: Tensor) -> Tensor:
    return norm.new_zeros(1, len(norm))


def _with_token_types(positions: Tensor, token_types: Tensor) -> Tensor:
    return positions + token_types[:1]
