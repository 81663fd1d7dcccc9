"""A ViT with a linear head on its class token, and the loss of images that have several labels."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from maws_composer.models.vit import VisionTransformer


class ImageClassifier(nn.Module):
    """Class token after the final norm -> one linear layer that starts at zero (SWAG's head).

    At the start every class is equally likely, so that the first steps move the head before the encoder.

    Names in the state: `encoder.<name>` is `<name>` in the released weights; `head.weight` and `head.bias`.

    Args:
        encoder: the ViT.
        num_classes: rows of the head.
    """

    def __init__(self, encoder: VisionTransformer, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.size.width, num_classes)

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Logits of normalized images."""
        return self.head(self.encoder(images))

    def initialize_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        """Fill the whole (unsharded) parameter in place. Raises ValueError for a name without a rule."""
        if name in ("head.weight", "head.bias"):
            tensor.zero_()
        else:
            self.encoder.initialize_parameter(name.removeprefix("encoder."), tensor, generator)


def soft_label_cross_entropy(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, "batch labels"]
) -> Float[Tensor, " batch"]:
    """Softmax cross-entropy against 1/k for each of an image's k labels (Mahajan et al. 2018), in fp32.

    That is the mean of the labels' log-probabilities, negated: a dense target of all classes is never made, and between
    forward and backward nothing of the size of the logits is kept but themselves.

    Args:
        logits: in any precision.
        labels: class indices, each once; rows are filled up with negative numbers.

    Returns:
        Each image's loss; 0, without a gradient, for one without labels.
    """
    losses: Tensor = _SoftLabelCrossEntropy.apply(logits, labels)
    return losses


class _SoftLabelCrossEntropy(torch.autograd.Function):
    """With a backward of its own: autograd's needs several tensors of the size of the logits beside the gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        ctx.save_for_backward(logits, labels)
        log_probabilities = logits.log_softmax(1, torch.float32).gather(1, labels.clamp(min=0))
        return -(log_probabilities * _shares(labels)).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """softmax(logits) less 1/k at the labels, times the loss's gradient."""
        logits, labels = ctx.saved_tensors
        weight = gradient.where((labels >= 0).any(1), 0.0).unsqueeze(1)
        of_logits = logits.softmax(1, torch.float32).mul_(weight)
        return of_logits.scatter_add_(1, labels.clamp(min=0), _shares(labels) * -weight).to(logits.dtype), None


def _shares(labels: Int[Tensor, "batch labels"]) -> Float[Tensor, "batch labels"]:
    """1/k for each of an image's k labels, 0 for what fills a row up."""
    is_label = labels >= 0
    return is_label / is_label.sum(1, keepdim=True).clamp(min=1)
