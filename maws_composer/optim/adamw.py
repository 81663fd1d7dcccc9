"""AdamW with the parameter groups of MAE (He et al. 2021, appendix A)."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

from maws_composer.optim import settings


def build_optimizer(stage: nn.Module, optimizer: settings.AdamW, global_train_batch_size: int) -> AdamW:
    """AdamW over the trainable parameters, in two groups: biases and norms are not decayed, all else is.

    The learning rate is linear in the batch: `base_lr * global_train_batch_size / 256`. Call it after sharding: the
    groups then hold the shards, and DTensors know their full shape, which is what tells a bias from a matrix.

    The fused kernel honors `found_inf`, a tensor on the device: where it is 1, the step leaves weights, moments and the
    count of steps as they are, and nobody on the CPU has to know before.
    """
    trainable = [parameter for parameter in stage.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in trainable if parameter.ndim > 1]
    spared = [parameter for parameter in trainable if parameter.ndim <= 1]
    fused = AdamW(
        [
            {"params": decayed, "weight_decay": optimizer.weight_decay, "name": "decayed"},
            {"params": spared, "weight_decay": 0.0, "name": "not decayed"},
        ],
        lr=optimizer.base_lr * global_train_batch_size / 256,
        betas=optimizer.betas,
        eps=optimizer.eps,
        fused=True,
    )
    fused.register_load_state_dict_pre_hook(_stay_fused)
    return fused


def _stay_fused(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint says by which kernel its steps were made: on CPUs it once was another."""
    return {**state, "param_groups": [{**group, "fused": True} for group in state["param_groups"]]}
