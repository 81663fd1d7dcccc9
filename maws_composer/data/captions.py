"""Captions to token ids, by the tokenizer of any Hugging Face text encoder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any, TypedDict

from jaxtyping import Int64
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from maws_composer.config.problems import ConfigError, Problem

NAME = "model.text.name"

# A sentence piece of XLM-R has at most 16 characters, so that twice as many per token leave spaces and what
# normalization takes away: the tokens that a context has room for are those of the whole caption.
_CHARACTERS_PER_TOKEN = 32

# Texts that tokenizers with the same pieces may take apart in different ways.
TRIED_TEXTS = (
    "  A photo of two Sealyham terriers,  in 1984!", "ein grüner Vogel auf der Straßenlaterne", "un œuf décoré à l'été",
    "İstanbul'da kırmızı kedi", "красная кошка", "قطة حمراء", "گربهٔ سرخ", "赤い猫の写真", "一只红色的猫", "빨간 고양이",
    "ﬁ ² ＡＢＣ 🐈",
)  # fmt: skip


class Tokens(TypedDict):
    """What a text tower is given."""

    input_ids: Int64[Tensor, "captions context"]
    attention_mask: Int64[Tensor, "captions context"]


class CaptionTokenizer:
    """Token ids of captions, always filled up to the length of the context, on the right; longer ones are cut.

    Long captions are cut as text first, at a space: 10,000 characters cost no more than a context can hold.

    Args:
        name: of a text encoder at Hugging Face, or a local folder with its tokenizer.
        context_length: tokens, the special ones included.

    Raises:
        ConfigError: there is no such tokenizer, it is not a fast one, or it cannot fill up.
    """

    def __init__(self, name: str, context_length: int) -> None:
        # The loader's workers are the parallelism; threads of the tokenizer's own would not survive their forking.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.context_length = context_length
        self._tokenizer = _load(name)

    def __call__(self, captions: Sequence[str]) -> Tokens:
        """Both int64 (captions, context_length)."""
        tokens = self._tokenizer(
            [self._cut(caption) for caption in captions],
            padding="max_length",
            truncation=True,
            max_length=self.context_length,
            return_attention_mask=True,
            return_tensors="pt",
        )
        return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}

    @property
    def vocabulary_size(self) -> int:
        """One more than the largest id."""
        return max(self._tokenizer.get_vocab().values()) + 1

    def digest(self) -> str:
        """Changes with the ids that texts get, and not with the version of the libraries that wrote the files."""
        pieces = sorted(self._tokenizer.get_vocab().items(), key=lambda piece: piece[1])
        ids = self._tokenizer([*TRIED_TEXTS])["input_ids"]
        return hashlib.sha256(json.dumps([pieces, ids]).encode()).hexdigest()

    @property
    def pad_token_id(self) -> int:
        """What fills up."""
        return int(self._tokenizer.pad_token_id)

    def _cut(self, caption: str) -> str:
        begin = len(caption) - len(caption.lstrip())  # a tokenizer may take spaces at the beginning away
        limit = begin + _CHARACTERS_PER_TOKEN * self.context_length
        if len(caption) <= limit:
            return caption
        at_a_space = caption[:limit].rpartition(" ")[0]
        return at_a_space if at_a_space.strip() else caption[:limit]


def tokenizer_problems(name: str, context_length: int) -> list[Problem]:
    """Whether the tokenizer can be had, and is that of the text encoder of the same name."""
    try:
        tokenizer = CaptionTokenizer(name, context_length)
    except ConfigError as error:
        return error.problems
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False).get_text_config()
    except Exception:  # weights are the text tower's question, a tokenizer alone is none of ours
        return []
    problems = []
    if tokenizer.vocabulary_size > config.vocab_size:
        message = (
            f"{name} has a tokenizer of {tokenizer.vocabulary_size:,} tokens and a tower that knows "
            f"{config.vocab_size:,}: they are of two models"
        )
        problems.append(Problem(NAME, message))
    if config.pad_token_id is not None and config.pad_token_id != tokenizer.pad_token_id:
        message = (
            f"{name} has a tokenizer that fills up with token {tokenizer.pad_token_id} and a tower that takes "
            f"{config.pad_token_id} for it: they are of two models"
        )
        problems.append(Problem(NAME, message))
    return problems


def _load(name: str) -> Any:
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name, use_fast=True, trust_remote_code=False, padding_side="right", truncation_side="right"
        )
    except Exception as error:  # transformers raises whatever its parsing, or its network, stumbles over
        raise _problem(_why_not(name, error)) from error
    if not tokenizer.is_fast:
        raise _problem(f"the tokenizer of {name} is not a fast one; save its fast version, tokenizer.json")
    if tokenizer.pad_token_id is None:
        raise _problem(f"the tokenizer of {name} has no padding token; set pad_token in its tokenizer_config.json")
    return tokenizer


def _why_not(name: str, error: Exception) -> str:
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    if os.path.isdir(name):
        present = os.path.exists(os.path.join(name, "tokenizer.json"))
        return f"the tokenizer of {name} cannot be read: {reason}" if present else f"{name} has no tokenizer.json"
    return (
        f"there is no folder {name}, and Hugging Face did not give a tokenizer of that name ({reason}); without "
        f"network, `hf download {name} --local-dir FOLDER` elsewhere, and name that folder here"
    )


def _problem(message: str) -> ConfigError:
    return ConfigError([Problem(NAME, message)])
