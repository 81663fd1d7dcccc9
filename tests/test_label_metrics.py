"""Metrics of several labels against torchmetrics' exact form and brute force, cut into batches and with padding."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multilabel_average_precision

from maws_composer.models.classifier import soft_label_cross_entropy
from maws_composer.stages.label_metrics import BinnedMeanAveragePrecision, LabelLoss, PrecisionAt

CLASSES, IMAGES = 12, 200


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, labels and valid; some images without labels, some rows that only fill."""
    rng = np.random.default_rng(0)
    labels = np.full((IMAGES, 3), -1)
    for row in labels:
        count = rng.integers(0, 4)
        row[:count] = rng.choice(CLASSES - 1, count, replace=False)  # nobody has the last class
    logits = rng.normal(0, 2, (IMAGES, CLASSES))
    for row, of_image in zip(logits, labels, strict=True):
        row[of_image[of_image >= 0]] += 1.5
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(labels), torch.tensor(rng.random(IMAGES) < 0.9)


def measured(metric, batch) -> float:
    for part in zip(*(rows.split(17) for rows in batch), strict=True):
        metric.update(*part)
    return metric.compute().item()


def counted(batch) -> list[tuple[np.ndarray, list[int]]]:
    """Logits and labels of the images that weigh anything."""
    logits, labels, valid = (rows.numpy() for rows in batch)
    rows = [(row, [int(label) for label in given if label >= 0]) for row, given in zip(logits, labels, strict=True)]
    return [row for row, is_valid in zip(rows, valid, strict=True) if is_valid and row[1]]


@pytest.mark.parametrize("k", [1, 5, 40])
def test_precision_is_the_share_of_images_with_any_label_among_the_best(k, batch):
    hits = [bool(set(np.argsort(-row)[:k].tolist()) & set(labels)) for row, labels in counted(batch)]
    assert measured(PrecisionAt(k), batch) == pytest.approx(np.mean(hits))


@pytest.mark.parametrize(("third", "first"), [("head", 0), ("middle", 4), ("tail", 8)])
def test_thirds_are_by_the_rarest_label(third, first, batch):
    rows = [(row, labels) for row, labels in counted(batch) if first <= max(labels) < first + 4]
    hits = [int(row.argmax()) in labels for row, labels in rows]
    assert measured(PrecisionAt(1, third), batch) == pytest.approx(np.mean(hits))


def test_the_loss_is_the_mean_over_labelled_images(batch):
    logits, labels, valid = batch
    losses = soft_label_cross_entropy(logits, labels)[valid & (labels[:, 0] >= 0)]
    assert measured(LabelLoss(), batch) == pytest.approx(losses.mean().item(), rel=1e-6)


def test_binned_average_precision_is_the_exact_one_of_binned_probabilities_and_close_to_that_of_all(batch):
    rows = counted(batch)
    scores = torch.tensor(np.array([row for row, _ in rows])).log_softmax(1)
    has = torch.tensor([[number in labels for number in range(CLASSES)] for _, labels in rows])
    present = has.any(0)
    assert not present[-1]
    scores, has = scores[:, present], has[:, present].long()
    binned = 1 - (scores / -0.1).floor().clamp(max=199) / 200
    found = measured(BinnedMeanAveragePrecision(CLASSES), batch)
    assert found == pytest.approx(multilabel_average_precision(binned, has, CLASSES - 1).item(), rel=1e-5)
    assert found == pytest.approx(multilabel_average_precision(scores.exp(), has, CLASSES - 1).item(), abs=0.02)
    _, labels, valid = batch
    perfect = torch.zeros(IMAGES, CLASSES + 1).scatter(1, labels.where(labels >= 0, CLASSES), 50.0)[:, :CLASSES]
    assert measured(BinnedMeanAveragePrecision(CLASSES), (perfect, labels, valid)) == 1


def test_memory_does_not_grow_with_the_images():
    metric = BinnedMeanAveragePrecision(28_000)
    metric.update(torch.zeros(2, 28_000), torch.tensor([[5], [27_999]]), torch.ones(2, dtype=torch.bool))
    assert sum(state.numel() * state.element_size() for state in (metric.images, metric.with_label)) < 100e6
    assert metric.compute().item() == pytest.approx(0.5)
