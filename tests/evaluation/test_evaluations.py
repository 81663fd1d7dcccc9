"""Evaluations of features against brute force, other libraries and optimality."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy
from torchmetrics.functional.classification import binary_average_precision, multilabel_average_precision

from maws_composer.config.problems import ConfigError
from maws_composer.evaluation.exact_map import ExactMap
from maws_composer.evaluation.features import Features, soft_targets
from maws_composer.evaluation.knn import Knn
from maws_composer.evaluation.lbfgs_probe import LbfgsProbe
from maws_composer.evaluation.linear_probe import LinearProbe, lars
from maws_composer.evaluation.ridge_probe import average_precision

CLASSES = 4


def clusters(images: int, seed: int, noise: float = 0.5) -> Features:
    """Points around a corner per class; every third image has a second class as well, and lies between."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(CLASSES, (images,), generator=generator)
    second = torch.where(torch.arange(images) % 3 == 0, (first + 1) % CLASSES, -1)
    corners = torch.eye(CLASSES, 6) * 3
    values = corners[first] + torch.where(second.unsqueeze(1) >= 0, corners[second], 0)
    values = values + noise * torch.randn(images, 6, generator=generator)
    return Features(values * torch.tensor([1, 9, 0.2, 1, 1, 50.0]) + 3, torch.stack([first, second], 1))


def test_neighbours_vote_as_in_plain_loops() -> None:
    train, test = clusters(60, 0, noise=2.0), clusters(23, 1, noise=2.0)
    hits = 0
    for query, labels in zip(test.values, test.labels.tolist(), strict=True):
        similar = cosine_similarity(query, train.values)
        votes = [0.0] * CLASSES
        for neighbour in similar.argsort(descending=True)[:7].tolist():
            for label in train.labels[neighbour].tolist():
                if label >= 0:
                    votes[label] += math.exp(similar[neighbour] / 0.1)
        hits += votes.index(max(votes)) in labels
    assert Knn(k=7, temperature=0.1)(train, test).figures["top1"] == pytest.approx(hits / 23)
    assert 0.3 < hits / 23 < 1


def test_a_probe_separates_what_is_separable_and_chooses_its_learning_rate_without_the_test_images() -> None:
    train, test = clusters(400, 0), clusters(100, 1)
    probe = LinearProbe(learning_rates=(1e-6, 0.5), epochs=30, warmup_epochs=3, batch_size=64)
    result = probe(train, test)
    assert result.figures["top1"] > 0.97
    assert result.figures["learning_rate"] == 0.5
    assert [rate for rate, _ in result.learning_rates] == [1e-6, 0.5]
    wrong = Features(test.values, (test.labels[:, :1] + 1) % CLASSES)
    assert probe(train, wrong).learning_rates == result.learning_rates
    assert probe(train, wrong).figures["top1"] < 0.2


def test_heads_beside_each_other_learn_as_each_would_alone() -> None:
    train = clusters(200, 0)
    probe = LinearProbe(epochs=5, warmup_epochs=1, batch_size=64, optimizer="lars")
    both, alone = probe.fit(train, CLASSES, [0.1, 3.0]), probe.fit(train, CLASSES, [3.0])
    torch.testing.assert_close(both.weight[1:], alone.weight)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_head_learns_as_torch_has_it(steps: int) -> None:
    """One learning rate, against BatchNorm, Linear, SGD and LambdaLR of torch with autograd.

    Two steps of 100 images at most 128 a batch: the learning rate is that of 100.
    """
    train = clusters({1: 128, 2: 200}[steps], 0)
    batch = len(train) // steps
    probe = LinearProbe(epochs=6, warmup_epochs=2, batch_size=128, momentum=0.9)
    head = probe.fit(train, CLASSES, [0.4])
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(6, CLASSES, generator=generator) * 0.01
    norm, linear = torch.nn.BatchNorm1d(6, affine=False, eps=1e-6), torch.nn.Linear(6, CLASSES)
    linear.weight.data, linear.bias.data = start.T.clone(), torch.zeros(CLASSES)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.4 * batch / 256, momentum=0.9)
    warmup, decay = 2 * steps, 4 * steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: (step + 1) / warmup if step < warmup else (1 + math.cos(math.pi * (step - warmup) / decay)) / 2,
    )
    for _ in range(6):
        for rows in torch.randperm(len(train), generator=generator).split(batch):
            optimizer.zero_grad()
            part = train.rows(rows)
            cross_entropy(linear(norm(part.values)), soft_targets(part.labels, CLASSES)).backward()
            optimizer.step()
            schedule.step()
    torch.testing.assert_close(head.weight[0], linear.weight.data.T, atol=1e-5, rtol=1e-4)


def test_a_probe_that_would_never_decay_or_has_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(ConfigError, match="warmup_epochs: 10 leaves none of 5 epochs to decay in; lower it"):
        LinearProbe(epochs=5)
    train = clusters(10, 0)
    for held_out, left in ((0.85, 1), (0.95, 0)):
        with pytest.raises(ConfigError, match=f"held_out: {held_out} of 10 training images leaves {left} to train on"):
            LinearProbe(held_out=held_out)(train, train)
    LinearProbe(epochs=11, held_out=0.8)(train, train)


def test_lars_scales_each_head_by_itself() -> None:
    weight, gradient = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    weight[1] = 0
    scaled = lars(weight, gradient)
    torch.testing.assert_close(scaled[0].norm(), 1e-3 * weight[0].norm())
    assert torch.equal(scaled[1], gradient[1])


def test_lbfgs_ends_where_the_gradient_of_the_loss_is_zero() -> None:
    train = clusters(300, 0, noise=1.5)
    standard = Features((train.values - train.values.mean(0)) / train.values.std(0), train.labels)
    weight, bias = (part.requires_grad_() for part in LbfgsProbe(penalty=1e-2).fit(standard, CLASSES))
    scores = standard.values.double() @ weight + bias
    loss = cross_entropy(scores, soft_targets(train.labels, CLASSES).double()) + 5e-3 * weight.square().sum()
    loss.backward()
    assert weight.grad.abs().max() < 1e-6 and bias.grad.abs().max() < 1e-6
    assert LbfgsProbe()(clusters(400, 0), clusters(100, 1)).figures["top1"] > 0.97


def test_average_precision_is_that_of_torchmetrics_with_equal_scores_too() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 12, (200, 5), generator=generator) / 12
    labels = (torch.rand(200, 5, generator=generator) < 0.2).long()
    expected = multilabel_average_precision(scores, labels, num_labels=5, average="none")
    torch.testing.assert_close(average_precision(scores, labels).float(), expected)


def test_the_exact_map_does_not_depend_on_how_many_classes_are_taken_at_once() -> None:
    """Against the normal equations, solved anew for each class, and average precision of torchmetrics."""
    train, test = clusters(120, 0, noise=3.0), clusters(70, 1, noise=3.0)
    mean, deviation = train.values.mean(0), train.values.std(0)
    known, shown = (((part.values - mean) / deviation).double() for part in (train, test))
    precisions = []
    for number in range(CLASSES):
        targets, hits = ((part.labels == number).any(1) for part in (train, test))
        offset = targets.double().mean()
        gram = known.T @ known + 1e-2 * 120 * torch.eye(6)
        scores = shown @ torch.linalg.solve(gram, known.T @ (targets.double() - offset)) + offset
        ranks = scores.argsort().argsort() / len(scores)
        precisions.append(binary_average_precision(ranks, hits.long()).item())
    for at_once in (1, 3, 256):
        result = ExactMap(classes_at_once=at_once)(train, test)
        assert result.figures["exact_map"] == pytest.approx(sum(precisions) / CLASSES, abs=1e-5)
        assert result.figures["classes"] == CLASSES


def test_images_have_their_share_of_each_of_their_classes() -> None:
    labels = torch.tensor([[2, 0, -1], [1, -1, -1]])
    assert soft_targets(labels, 4).tolist() == [[0.5, 0, 0.5, 0], [0, 1, 0, 0]]
