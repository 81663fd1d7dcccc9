"""The learning rate's closed form, and which parameters are decayed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from maws_composer.optim.adamw import build_optimizer
from maws_composer.optim.schedule import warmup_then_cosine
from maws_composer.optim.settings import AdamW


def test_the_learning_rate_is_linear_then_half_a_cosine() -> None:
    at = {sample: warmup_then_cosine(sample, total=1000, warmup=0.05, final=0.0) for sample in range(0, 1001, 25)}
    assert at[0] == 0 and at[25] == 0.5 and at[50] == 1 and at[1000] == pytest.approx(0)
    assert at[525] == pytest.approx(0.5)  # half way down
    assert at[250] == pytest.approx((1 + math.cos(math.pi * 200 / 950)) / 2)


def test_it_ends_where_it_is_told_and_stays_there() -> None:
    assert warmup_then_cosine(1000, 1000, 0.0, final=0.1) == pytest.approx(0.1)
    assert warmup_then_cosine(2000, 1000, 0.0, final=0.1) == pytest.approx(0.1)
    assert warmup_then_cosine(0, 1000, 0.0, final=0.1) == 1


def test_biases_norms_and_fixed_parameters_are_spared() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    model.register_parameter("token", nn.Parameter(torch.zeros(1, 1, 3)))
    model.register_parameter("fixed", nn.Parameter(torch.zeros(2, 3), requires_grad=False))
    optimizer = build_optimizer(model, AdamW(base_lr=1.5e-4), global_train_batch_size=4096)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {group["name"]: sorted(names[id(p)] for p in group["params"]) for group in optimizer.param_groups}
    assert groups == {"decayed": ["0.weight", "token"], "not decayed": ["0.bias", "1.bias", "1.weight"]}
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]
    assert all(group["lr"] == pytest.approx(2.4e-3) for group in optimizer.param_groups)
