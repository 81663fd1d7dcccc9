"""Weights under other names: each tensor made of others, when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from maws_composer.weights.files import Weights


def _same(tensor: Tensor) -> Tensor:
    return tensor


class Recipe(NamedTuple):
    """A tensor, made of others.

    Attributes:
        of: their names.
        make: from them, in this order. Shapes are found by calling it on the meta device.
    """

    of: tuple[str, ...]
    make: Callable[..., Tensor] = _same


Recipes = Mapping[str, Recipe]


AnyWeights = TypeVar("AnyWeights", bound=Weights)


def translated(weights: AnyWeights, recipes: Recipes) -> AnyWeights:
    """The same weights by other names.

    Nothing gets lost: a tensor that no recipe takes keeps its name, and so do all of a recipe's where one is missing.
    """
    possible = {name: recipe for name, recipe in recipes.items() if all(part in weights.shapes for part in recipe.of)}
    taken = {part for recipe in possible.values() for part in recipe.of}
    complete = {**possible, **{name: Recipe((name,)) for name in weights.shapes if name not in taken}}
    meta = {
        name: torch.empty(shape, dtype=weights.dtypes[name], device="meta") for name, shape in weights.shapes.items()
    }
    made = {name: recipe.make(*[meta[part] for part in recipe.of]) for name, recipe in complete.items()}
    read_once = lru_cache(maxsize=1)(weights.read)  # parts of one tensor are asked for one after the other
    return replace(
        weights,
        shapes={name: tensor.shape for name, tensor in made.items()},
        dtypes={name: tensor.dtype for name, tensor in made.items()},
        read=lambda name: complete[name].make(*[read_once(part) for part in complete[name].of]).contiguous(),
    )


def prefixed(recipes: Recipes, ours: str = "", theirs: str = "") -> dict[str, Recipe]:
    """The same recipes with prefixes before the names of what is made, and of what it is made of."""
    return {
        ours + name: recipe._replace(of=tuple(theirs + part for part in recipe.of)) for name, recipe in recipes.items()
    }


def part(which: int, count: int, tensor: Tensor) -> Tensor:
    """One of `count` equal parts along the first axis."""
    return tensor.chunk(count)[which].clone()


def stack(*tensors: Tensor) -> Tensor:
    """One below the other."""
    return torch.cat(tensors)


def transposed(tensor: Tensor) -> Tensor:
    return tensor.t()
