"""The loss of several labels is the dense soft-target form; the head starts at zero."""

import math

import pytest
import torch

from maws_composer.models.classifier import ImageClassifier, soft_label_cross_entropy
from maws_composer.models.initialization import initialize
from maws_composer.models.sizes import SIZES
from maws_composer.models.vit import VisionTransformer

LABELS = [[3], [0, 7, 19], [5, 2], [11, 12, 13, 14]]


def padded(labels: list[list[int]]) -> torch.Tensor:
    longest = max(map(len, labels))
    return torch.tensor([row + [-1] * (longest - len(row)) for row in labels])


def dense(labels: list[list[int]], num_classes: int) -> torch.Tensor:
    targets = torch.zeros(len(labels), num_classes)
    for row, of_image in zip(targets, labels, strict=True):
        row[of_image] = 1 / len(of_image)
    return targets


def test_the_loss_is_that_of_dense_soft_targets_in_value_and_gradient():
    logits = (torch.randn(4, 20, generator=torch.Generator().manual_seed(0)) * 5).requires_grad_()
    expected = torch.nn.functional.cross_entropy(logits, dense(LABELS, 20), reduction="none")
    (gradient,) = torch.autograd.grad(expected.sum(), logits)
    losses = soft_label_cross_entropy(logits, padded(LABELS))
    torch.testing.assert_close(losses, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(*torch.autograd.grad(losses.sum(), logits), gradient, atol=1e-6, rtol=1e-6)


def test_the_loss_is_in_fp32_and_an_image_without_labels_weighs_nothing():
    logits = torch.randn(4, 20, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    labels = padded([*LABELS[:3], []])
    losses = soft_label_cross_entropy(logits, labels)
    assert losses.dtype == torch.float32 and losses[3] == 0
    torch.testing.assert_close(losses[:3], soft_label_cross_entropy(logits.float(), labels)[:3], atol=0, rtol=0)
    losses.sum().backward()
    assert logits.grad is not None and (logits.grad[3] == 0).all() and (logits.grad[:3] != 0).all()
    assert (soft_label_cross_entropy(logits, torch.empty(4, 0, dtype=torch.int64)) == 0).all()


def test_between_forward_and_backward_only_the_logits_are_as_large_as_the_logits():
    logits = torch.randn(4, 20).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        loss = soft_label_cross_entropy(logits, padded(LABELS)).mean()
    assert {tensor.data_ptr() for tensor in kept if tensor.numel() >= logits.numel()} == {logits.data_ptr()}
    loss.backward()
    assert torch.autograd.gradcheck(
        lambda given: soft_label_cross_entropy(given, padded(LABELS)), logits, eps=1e-2, atol=1e-3
    )


@pytest.mark.parametrize("sizes", [(4,), (3, 1), (1, 1, 2)])
def test_microbatches_weighted_by_their_samples_give_the_mean_of_the_batch(sizes):
    logits = torch.randn(4, 20, dtype=torch.float64)
    labels = padded([*LABELS[:2], [], LABELS[3]])
    whole = soft_label_cross_entropy(logits, labels).mean()
    parts = zip(logits.split(sizes), labels.split(sizes), strict=True)
    cut = sum(soft_label_cross_entropy(*part).mean() * len(part[0]) / 4 for part in parts)
    torch.testing.assert_close(cut, whole)


def test_at_the_start_all_classes_are_equally_likely_and_the_head_learns():
    with torch.device("meta"):
        model = ImageClassifier(VisionTransformer(SIZES["vit_micro"], 24), 10)
    model.to_empty(device="cpu")
    initialize(model, seed=0)
    images = torch.randn(4, 3, 24, 24)
    losses = soft_label_cross_entropy(model(images), padded([[1], [2, 3], [4], [5]]))
    torch.testing.assert_close(losses, torch.full((4,), math.log(10)))
    losses.mean().backward()
    assert (model.head.weight.grad != 0).any()
    assert model.encoder.pos_embed.requires_grad
    features = model.encoder.forward_features(images)[:, 0]  # the class token after the final norm
    torch.testing.assert_close(model.encoder(images), features)
