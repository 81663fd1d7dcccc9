"""The closed-form probe against gradient descent, the definition of average precision, and data that it must solve."""

import torch

from maws_composer.evaluation.ridge_probe import ridge_probe


def test_labels_that_are_linear_in_the_features_are_found_perfectly() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(400, 6, generator=generator)
    labels = (features[:, :3] > 0.3).long()
    result = ridge_probe(features[:300], labels[:300], features[300:], labels[300:])
    assert result.mean_average_precision > 0.97
    assert result.labels == 3


def test_features_that_know_nothing_rank_by_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(4000, 4, generator=generator), torch.randint(0, 2, (4000, 5), generator=generator)
    result = ridge_probe(features[:2000], labels[:2000], features[2000:], labels[2000:])
    assert abs(result.mean_average_precision - 0.5) < 0.03


def test_weights_are_those_of_gradient_descent_on_the_same_objective() -> None:
    """The closed form against the minimum found by descending: same ranking, same figure."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(200, 5, generator=generator).double()
    labels = (torch.rand(200, 2, generator=generator) < 0.4).long()
    train, test = features[:150], features[150:]
    mean, std = train.mean(0), train.std(0) + 1e-6
    x, y = (train - mean) / std, labels[:150].double()
    weights = torch.zeros(5, 2, dtype=torch.float64)
    for _ in range(4000):
        weights -= 0.2 * (x.T @ (x @ weights - (y - y.mean(0))) / 150 + 1e-2 * weights)
    scores = ((test - mean) / std) @ weights
    expected = [average_precision(scores[:, label], labels[150:, label]) for label in range(2)]
    result = ridge_probe(train, labels[:150], test, labels[150:])
    assert abs(result.mean_average_precision - sum(expected) / 2) < 1e-6


def average_precision(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """By the definition: the mean, over the positives, of the precision at their rank."""
    ranked = labels[scores.argsort(descending=True)]
    hits = [float(ranked[: rank + 1].sum()) / (rank + 1) for rank in range(len(ranked)) if ranked[rank]]
    return sum(hits) / len(hits)
