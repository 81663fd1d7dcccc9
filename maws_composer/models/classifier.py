"""A ViT with a linear head on its class token, and the loss of images that have several labels."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

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

    That is logsumexp(logits) less the mean of the labels' logits: a dense target of all classes is never made.

    Args:
        logits: in any precision.
        labels: class indices, each once; rows are filled up with negative numbers.

    Returns:
        Each image's loss; 0, without a gradient, for one without labels.
    """
    logits = logits.float()
    is_label = labels >= 0
    count = is_label.sum(1)
    of_labels = logits.gather(1, labels.clamp(min=0)).where(is_label, 0.0).sum(1) / count.clamp(min=1)
    return (logits.logsumexp(1) - of_labels).where(count > 0, 0.0)
