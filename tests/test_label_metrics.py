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
def test_in_a_third_its_classes_compete_for_the_images_that_have_one(third, first, batch):
    wanted = set(range(first, first + 4))
    rows = [(row, wanted & set(labels)) for row, labels in counted(batch) if wanted & set(labels)]
    hits = [max(wanted, key=lambda label: row[label]) in of_third for row, of_third in rows]
    assert measured(PrecisionAt(1, third), batch) == pytest.approx(np.mean(hits))


def test_who_only_ever_says_the_most_frequent_class_is_never_right_in_the_tail():
    labels = torch.tensor([[0, 11], [0, 9], [0, -1], [10, -1]])
    says = torch.zeros(CLASSES)
    says[0], says[8] = 9, 1
    logits, valid = says.expand(4, -1), torch.ones(4, dtype=torch.bool)
    found = {third: measured(PrecisionAt(1, third), (logits, labels, valid)) for third in ("head", "tail")}
    assert found == {"head": 1, "tail": 0}
    assert measured(PrecisionAt(1), (logits, labels, valid)) == 0.75


def test_the_loss_is_the_mean_over_labelled_images(batch):
    logits, labels, valid = batch
    losses = soft_label_cross_entropy(logits, labels)[valid & (labels[:, 0] >= 0)]
    assert measured(LabelLoss(), batch) == pytest.approx(losses.mean().item(), rel=1e-6)


def confident(batch, by: float):
    """As a model says it that is sure of itself: of a label of three images in four, of any class of the others."""
    logits, labels, valid = batch
    rng = np.random.default_rng(1)
    said = np.where(rng.random(IMAGES) < 0.75, labels[:, 0], rng.integers(0, CLASSES, IMAGES))
    sure = logits.clone()
    sure[torch.arange(IMAGES), torch.tensor(said).clamp(min=0)] += torch.tensor(by * rng.uniform(0.5, 1, IMAGES))
    return sure.float(), labels, valid


def log_odds(logits: np.ndarray) -> np.ndarray:
    """Of each class against all others, written out, in fp64."""
    exponents = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    others = np.stack([np.delete(exponents, number, 1).sum(1) for number in range(CLASSES)], 1)
    return np.log(exponents) - np.log(others)


@pytest.mark.parametrize("by", [0, 6, 12, 20])
@pytest.mark.parametrize(("third", "first", "end"), [(None, 0, 12), ("head", 0, 4), ("middle", 4, 8), ("tail", 8, 12)])
def test_binned_average_precision_is_that_of_binned_log_odds_and_close_to_the_exact_one(by, third, first, end, batch):
    said = confident(batch, by)
    rows = counted(said)
    scores = torch.tensor(log_odds(np.array([row for row, _ in rows])))[:, first:end]
    has = torch.tensor([[number in labels for number in range(first, end)] for _, labels in rows])
    present = has.any(0)
    assert present.all() or third in (None, "tail")  # nobody has the last class
    scores, has = scores[:, present], has[:, present].long()

    def mean_average_precision(between_0_and_1: torch.Tensor) -> float:
        return multilabel_average_precision(between_0_and_1, has, has.shape[1]).item()

    found = measured(BinnedMeanAveragePrecision(CLASSES, third), said)
    binned = ((scores + 20) / 0.1).ceil().clamp(1, 400) / 400
    assert found == pytest.approx(mean_average_precision(binned), rel=1e-5)
    ranks = scores.argsort(0).argsort(0) / len(scores)
    assert found == pytest.approx(mean_average_precision(ranks), abs=0.02)


def test_what_is_perfect_has_an_average_precision_of_1(batch):
    _, labels, valid = batch
    perfect = torch.zeros(IMAGES, CLASSES + 1).scatter(1, labels.where(labels >= 0, CLASSES), 50.0)[:, :CLASSES]
    assert measured(BinnedMeanAveragePrecision(CLASSES), (perfect, labels, valid)) == 1


def test_memory_does_not_grow_with_the_images():
    metric = BinnedMeanAveragePrecision(28_000)
    held = []
    for _ in range(3):
        metric.update(torch.zeros(2, 28_000), torch.tensor([[5], [27_999]]), torch.ones(2, dtype=torch.bool))
        states = [getattr(metric, name) for name in metric._defaults]
        held.append(sum(state.numel() * state.element_size() for state in states))
    assert held == [held[0]] * 3 and held[0] < 100e6
    assert metric.compute().item() == pytest.approx(0.5)
