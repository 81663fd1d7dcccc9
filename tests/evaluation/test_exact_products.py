"""While training in bf16, evaluations of features compute in fp32, as evaluate.py does."""

from __future__ import annotations

import pytest
import torch

from maws_composer.evaluation.features import Extracted, Features, Result, Words
from maws_composer.evaluation.suite import evaluate_all
from tests.one_rank import process_group

__all__ = ["process_group"]


def similarity(train: Features, test: Features) -> Result:
    return Result({"similarity": (train.values @ test.values.T).sum().item()})


def test_an_evaluation_has_exact_products_within_autocast() -> None:
    values = torch.tensor([[1 + 2**-12, 1.0]])  # bf16 has eight digits
    features = Features(values, torch.zeros(1, 1, dtype=torch.int64))
    images = Extracted(features, ("0",), (), torch.zeros(0, 3, 4, 4, dtype=torch.uint8), torch.zeros(0).long())
    with torch.autocast("cpu", torch.bfloat16):
        rounded = similarity(features, features).figures["similarity"]
        results = evaluate_all({"similarity": similarity}, images, images, Words(), None)
    assert rounded == 2
    assert results["similarity"].figures["similarity"] == pytest.approx((1 + 2**-12) ** 2 + 1, rel=1e-7)
