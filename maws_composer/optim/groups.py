"""The parameter groups of MAE (He et al. 2021, appendix A), as every optimizer gets them."""

from __future__ import annotations

from typing import Any

from torch import nn

from maws_composer.config.run import Run

ParamGroups = list[dict[str, Any]]


def parameter_groups(stage: nn.Module, run: Run) -> ParamGroups:
    """Two groups: biases and norms are not decayed, all else is. Parameters that are not trained are in none.

    The learning rate is linear in the batch: `base_lr * global_train_batch_size / 256`.
    """
    settings = run.optimizer
    trainable = [parameter for parameter in stage.parameters() if parameter.requires_grad]
    lr = settings.base_lr * run.global_train_batch_size / 256
    return [
        {
            "params": [parameter for parameter in trainable if parameter.ndim > 1],
            "lr": lr,
            "weight_decay": settings.weight_decay,
            "name": "decayed",
        },
        {
            "params": [parameter for parameter in trainable if parameter.ndim <= 1],
            "lr": lr,
            "weight_decay": 0.0,
            "name": "not decayed",
        },
    ]
