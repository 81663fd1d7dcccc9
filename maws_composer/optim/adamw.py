"""AdamW with the parameter groups of MAE (He et al. 2021, appendix A)."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW

from maws_composer.optim import settings


def build_optimizer(stage: nn.Module, optimizer: settings.AdamW, global_train_batch_size: int) -> AdamW:
    """AdamW over the trainable parameters, in two groups: biases and norms are not decayed, all else is.

    The learning rate is linear in the batch: `base_lr * global_train_batch_size / 256`. Call it after sharding: the
    groups then hold the shards, and DTensors know their full shape, which is what tells a bias from a matrix.
    """
    trainable = [parameter for parameter in stage.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trainable if parameter.ndim > 1]
    spared = [parameter for parameter in trainable if parameter.ndim <= 1]
    return AdamW(
        [
            {"params": decayed, "weight_decay": optimizer.weight_decay, "name": "decayed"},
            {"params": spared, "weight_decay": 0.0, "name": "not decayed"},
        ],
        lr=optimizer.base_lr * global_train_batch_size / 256,
        betas=optimizer.betas,
        eps=optimizer.eps,
        fused=trainable[0].device.type == "cuda",
    )
