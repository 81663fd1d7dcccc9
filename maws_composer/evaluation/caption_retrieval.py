"""Retrieval of captions by images, and of images by captions."""

from __future__ import annotations

import json
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.data.columns import CAPTION, CAPTIONS_FILE
from maws_composer.evaluation.features import Extracted, Guess, Result, Towers, Words
from maws_composer.evaluation.retrieval import chance_of_recall, images_of_texts, match_ranks, recall_at
from maws_composer.evaluation.texts import embed_texts
from maws_composer.parallel.agree import on_rank_zero
from maws_composer.parallel.precision import torch_device
from maws_composer.registry import register_evaluation

GUESSES = 5  # per picture


class Pairs(NamedTuple):
    """Images with captions.

    Attributes:
        rows: of the dataset, that have a caption.
        texts: each caption once.
        own: for each of `rows`, which text is its caption.
    """

    rows: Int[Tensor, " images"]
    texts: list[str]
    own: Int[Tensor, " images"]


@register_evaluation("retrieval")
class Retrieval:
    """Recall at 1, 5 and 10: how often an image's caption is among the texts nearest to it, and how often an image of
    the caption is among those nearest to it; and what guessing gives. What is exactly as near counts as nearer.

    Images without a caption are left out. A caption of several images is one text, and any of them is right. Needs the
    text tower of a LiT run. Texts are embedded on all ranks, each its share.

    Args:
        languages: such as [en, fr], of the captions in the dataset's captions.json (id -> language -> caption); each is
            a retrieval of its own. Null: the column `caption`, whatever its languages.
        at: the numbers of nearest ones.
    """

    def __init__(
        self,
        languages: Annotated[tuple[str, ...], Field(min_length=1)] | None = None,
        at: tuple[Annotated[int, Field(gt=0)], ...] = (1, 5, 10),
    ) -> None:
        self.languages = languages
        self.at = at
        self.columns: tuple[str, ...] = (CAPTION,) if languages is None else ()

    def check(self, words: Words) -> None:
        if self.languages is None:
            return
        found = {language for captions in words.captions.values() for language in captions}
        for language in self.languages:
            if language not in found:
                has = f"has captions in {', '.join(sorted(found))}" if found else f"has no {CAPTIONS_FILE}"
                raise _problem("languages", f"there are no captions in {language!r}; data.test {has}")

    def with_text(self, test: Extracted | None, words: Words, towers: Towers) -> Result:
        result = Result({}, guesses={})
        for language in self.languages or ("",):
            pairs = on_rank_zero(lambda language=language: self._pairs(test, words, language))  # type: ignore[misc]
            texts = embed_texts(towers, pairs.texts, f"captions {language}".strip())
            found = on_rank_zero(
                lambda language=language, pairs=pairs, texts=texts: self._result(test, towers, pairs, texts, language)  # type: ignore[misc]
            )
            result = Result(result.figures | found.figures, guesses={**result.guesses, **found.guesses})
        return result

    def _pairs(self, test: Extracted | None, words: Words, language: str) -> Pairs:
        assert test is not None
        captions = [words.captions.get(name, {}).get(language, "") for name in test.ids] if language else test.captions
        rows = [row for row, caption in enumerate(captions) if caption.strip()]
        if not rows:
            raise _problem("", f"no image of data.test has a caption {f'in {language}' if language else ''}".strip())
        places: dict[str, int] = {}
        own = [places.setdefault(captions[row], len(places)) for row in rows]
        return Pairs(torch.tensor(rows), list(places), torch.tensor(own))

    def _result(
        self,
        test: Extracted | None,
        towers: Towers,
        pairs: Pairs,
        texts: Float[Tensor, "texts embed"],
        language: str,
    ) -> Result:
        assert test is not None
        device = torch_device()
        images = towers.project(test.features.values)
        rows, keys = images[pairs.rows].to(device), texts.to(device)
        of_images = match_ranks(rows, keys, pairs.own.unsqueeze(1).to(device))
        of_texts = match_ranks(keys, rows, images_of_texts(pairs.own).to(device))
        prefix = f"{language}/" if language else ""
        figures = {}
        for direction, found in (("image_to_text", of_images), ("text_to_image", of_texts)):
            for most in self.at:
                figures[f"{prefix}{direction}/recall_at_{most}"] = recall_at(found, most)
        for most in self.at:
            of_image, of_text = chance_of_recall(pairs.own.bincount(), most)
            figures[f"{prefix}chance/image_to_text/recall_at_{most}"] = of_image
            figures[f"{prefix}chance/text_to_image/recall_at_{most}"] = of_text
        own = dict(zip(pairs.rows.tolist(), pairs.own.tolist(), strict=True))
        best = (images[test.pictured] @ texts.T).topk(min(GUESSES, len(texts))).indices
        guesses = [
            [Guess(pairs.texts[index], own.get(row) == index) for index in chosen]
            for chosen, row in zip(best.tolist(), test.pictured.tolist(), strict=True)
        ]
        return Result(figures, guesses={language or "captions": guesses})


def read_captions(text: bytes) -> dict[str, dict[str, str]]:
    """`captions.json`: id of an image -> language -> caption.

    Raises:
        ValueError: it is something else.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{CAPTIONS_FILE} is damaged: {error!r}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{CAPTIONS_FILE} has no ids of images as keys")
    for image, captions in content.items():
        if not isinstance(captions, dict) or not all(isinstance(caption, str) for caption in captions.values()):
            raise ValueError(f'{CAPTIONS_FILE}, {image}: expected captions by language, such as {{"en": "a cat"}}')
    return content


def _problem(argument: str, message: str) -> ConfigError:
    return ConfigError([Problem(f"evaluations.retrieval.{argument}".rstrip("."), message)])
