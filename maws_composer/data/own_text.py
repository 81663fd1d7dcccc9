"""A text tower of the user's own: what a plugin of the kind `text_tower` has to be.

A class derived from torch.nn.Module, which is made on the meta device; `model.text.name` names it, and its arguments
are `model.text.arguments`. Its objects have

    width                               of a text's embedding
    vocabulary                          token ids are below it
    tokenize(text)                      -> list of ids, as many as there are: they are cut to the context, or filled up
                                        with 0 and masked
    forward(input_ids, attention_mask)  -> (texts, width); both are int64 (texts, context_length)
    blocks()                            -> list of modules in the order of the forward pass, each of which is sharded,
                                        compiled and checkpointed by itself; all else is one more part

Matrices begin normal with deviation 0.02, vectors named `weight` as ones and others as zeros, unless the tower has
`initialize_parameter(name, tensor, generator)`, which fills a whole parameter in place. Dropout is the tower's own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from maws_composer.config.build import build
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.data.captions import NAME, TRIED_TEXTS, CaptionTokenizer, Tokens, tokenizer_problems
from maws_composer.frames import traceback_of
from maws_composer.registry import lookup, names

_LACKING = "; expected width, vocabulary, tokenize(text), blocks() and forward(input_ids, attention_mask)"


class NamesTower(Protocol):
    """The section `model.text`."""

    @property
    def name(self) -> str: ...

    @property
    def context_length(self) -> int: ...

    @property
    def arguments(self) -> Mapping[str, Any]: ...


def is_own(text: NamesTower) -> bool:
    """Whether the tower is a plugin, rather than one of Hugging Face's."""
    return text.name in names("text_tower")


def own_tower(text: NamesTower) -> Any:
    """Make the tower on the current device.

    Raises:
        ValueError: it cannot be made, or is not what a text tower has to be.
    """
    try:
        entry = lookup("text_tower", text.name)
        called = f"text.name: the text tower {text.name} ({entry.origin})"
        tower = build(entry, text.arguments, None)
    except ConfigError as error:
        told = [f"text.arguments.{problem.path}: {problem.message}" for problem in error.problems]
        raise ValueError("; ".join(told)) from error
    except Exception as error:
        raise ValueError(f"{called} cannot be made:\n{traceback_of(error)}") from error
    wanted = {"width": int, "vocabulary": int, "tokenize": object, "blocks": object}
    if wrong := [name for name, kind in wanted.items() if not isinstance(getattr(tower, name, None), kind)]:
        raise ValueError(f"{called} has no {wrong[0]}{_LACKING}")
    if not all(any(block is part for part in tower.modules()) for block in tower.blocks()):
        raise ValueError(f"{called} has blocks() that are no modules of it")
    if lost := [name for name, buffer in tower.named_buffers() if buffer.is_meta]:
        raise ValueError(f"{called} has a buffer {lost[0]}, which the meta device empties: give it device='cpu'")
    return tower


class OwnTokenizer:
    """Token ids of captions by the tower's own `tokenize`, as `CaptionTokenizer` has them.

    Raises:
        ValueError: see `own_tower`.
    """

    def __init__(self, text: NamesTower) -> None:
        with torch.device("meta"):
            self._tower = own_tower(text)
        self.context_length = text.context_length
        self._name = text.name

    def __call__(self, captions: Sequence[str]) -> Tokens:
        """Both int64 (captions, context_length).

        Raises:
            ValueError: what `tokenize` returned are no token ids.
        """
        ids = torch.zeros(len(captions), self.context_length, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, caption in enumerate(captions):
            tokens = torch.tensor(self._ids(caption)[: self.context_length])
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def digest(self) -> str:
        """Changes with the ids that texts get."""
        ids = [self._ids(text) for text in TRIED_TEXTS]
        return hashlib.sha256(json.dumps([self._tower.vocabulary, ids]).encode()).hexdigest()

    def _ids(self, text: str) -> list[int]:
        ids, vocabulary = [*self._tower.tokenize(text)], self._tower.vocabulary
        if not ids or not all(isinstance(each, int) and 0 <= each < vocabulary for each in ids):
            message = f"the text tower {self._name} made {ids!r:.80} of {text!r:.40}; expected ids below {vocabulary:,}"
            raise ValueError(message)
        return ids


def tokenizer_of(text: NamesTower) -> CaptionTokenizer | OwnTokenizer:
    """The tokenizer of the tower.

    Raises:
        ConfigError: there is none, or it cannot be used.
    """
    if not is_own(text):
        return CaptionTokenizer(text.name, text.context_length)
    try:
        return OwnTokenizer(text)
    except ValueError as error:
        raise ConfigError([Problem(NAME, str(error))]) from error


def text_problems(text: NamesTower) -> list[Problem]:
    """Whether the tokenizer can be had, and fits the tower; a tower of the user's is tried with shapes."""
    if is_own(text):
        return _own_problems(text)
    if text.arguments:
        return [Problem("model.text.arguments", f"are of a text tower that is registered, and {text.name} is none")]
    return tokenizer_problems(text.name, text.context_length)


def _own_problems(text: NamesTower) -> list[Problem]:
    try:
        tokens = OwnTokenizer(text)(TRIED_TEXTS)
        with torch.device("meta"):
            tower = own_tower(text)
    except ValueError as error:
        return [Problem(NAME, str(error))]
    try:
        ids, mask = tokens["input_ids"].to("meta"), tokens["attention_mask"].to("meta")
        made = tower(input_ids=ids, attention_mask=mask)
    except Exception as error:
        # Code that looks at values runs, though not on the meta device.
        return [] if "meta" in str(error) else [Problem(NAME, f"{text.name} fails:\n{traceback_of(error)}")]
    expected = (len(TRIED_TEXTS), tower.width)
    if isinstance(made, Tensor) and tuple(made.shape) == expected:
        return []
    what = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
    return [Problem(NAME, f"{text.name} makes {what} of {expected[0]} texts; expected (texts, width), {expected}")]


def has_dropout(tower: nn.Module) -> bool:
    """Whether it draws at random while it is trained, as far as its modules say so."""
    drops = (module.p for module in tower.modules() if isinstance(module, _DropoutNd))
    attentions = (module.dropout for module in tower.modules() if isinstance(module, nn.MultiheadAttention))
    return any(share > 0 for share in (*drops, *attentions))
