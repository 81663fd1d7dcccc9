"""Recall over held-out pairs against `maws_composer.evaluation`'s retrieval, whatever the batches."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from maws_composer.models.clip import Embeddings
from maws_composer.models.contrastive import softmax_rows
from maws_composer.stages.pair_metrics import HeldOutPairs, RetrievalRecall

SCALE = torch.tensor([14.0])


def recalls(image: torch.Tensor, text: torch.Tensor, captions: list[str], valid: torch.Tensor) -> list[float]:
    """recall@1 of images and of texts, in batches of 4."""
    pairs = HeldOutPairs(softmax_rows)
    for begin in range(0, len(captions), 4):
        rows = slice(begin, begin + 4)
        pairs.update(Embeddings(image[rows], text[rows], SCALE, None), valid[rows], captions[rows])
    return [float(RetrievalRecall(pairs, 1, of_texts).compute()) for of_texts in (False, True)]


def test_a_caption_of_several_images_is_one_text_that_any_of_them_finds() -> None:
    captions = ["a", "b", "c", "b", "d", "a"]
    kinds = torch.eye(4)[[ord(caption) - ord("a") for caption in captions]]
    assert recalls(kinds, kinds, captions, torch.ones(6, dtype=torch.bool)) == [1.0, 1.0]
    near = normalize(kinds + torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    texts = {caption: kinds[row] for row, caption in enumerate(captions)}
    of_images = [max(texts, key=lambda text, row=row: float(texts[text] @ row)) for row in near]
    of_texts = {text: captions[int((near @ row).argmax())] for text, row in texts.items()}
    assert recalls(near, kinds, captions, torch.ones(6, dtype=torch.bool)) == [
        torch.tensor(sum(found == own for found, own in zip(of_images, captions, strict=True)) / 6).item(),
        torch.tensor(sum(found == own for own, found in of_texts.items()) / 4).item(),
    ]


def test_pairs_that_are_not_valid_are_neither_asked_nor_found() -> None:
    rows = torch.eye(5)
    copied = torch.cat([rows[:3], rows[:1], rows[3:]])  # the fourth stands in for a sample that cannot be used
    captions, valid = ["a", "b", "c", "x", "d", "e"], torch.tensor([True, True, True, False, True, True])
    assert recalls(copied, copied, captions, valid) == [1.0, 1.0]
