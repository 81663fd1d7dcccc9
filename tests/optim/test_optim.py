"""The learning rate's closed form, and which parameters are decayed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from maws_composer import registry
from maws_composer.config.plugins import load_with_ours
from maws_composer.config.run import Run
from maws_composer.data.settings import Data, TrainData
from maws_composer.optim.build import build_optimizer
from maws_composer.optim.schedule import build_schedule, warmup_then_decay
from maws_composer.optim.settings import OptimizerSettings
from tests.runs import Runs


def run_with(batch: int = 256, **settings: object) -> Run:
    data = Data(train=TrainData())
    return Run(stage="mae", model={}, data=data, global_train_batch_size=batch, max_duration="4096sp", **settings)


def test_the_learning_rate_is_linear_then_half_a_cosine() -> None:
    at = {sample: warmup_then_decay(sample, total=1000, warmup=0.05, final=0.0) for sample in range(0, 1001, 25)}
    assert at[0] == 0 and at[25] == 0.5 and at[50] == 1 and at[1000] == pytest.approx(0)
    assert at[525] == pytest.approx(0.5)  # half way down
    assert at[250] == pytest.approx((1 + math.cos(math.pi * 200 / 950)) / 2)


def test_the_decay_can_be_a_straight_line() -> None:
    at = {sample: warmup_then_decay(sample, 1000, 0.05, 0.1, "linear") for sample in (25, 50, 240, 525, 1000, 2000)}
    assert at == pytest.approx({25: 0.5, 50: 1, 240: 0.82, 525: 0.55, 1000: 0.1, 2000: 0.1})


def test_a_run_decays_as_its_yaml_says(tmp_path: Path) -> None:
    for decay, quarter in (("cosine", math.cos(math.pi / 8) ** 2), ("linear", 0.75)):
        overrides = [f"schedule.decay={decay}", "schedule.warmup=0.0", "max_duration=128sp"]
        run = load_with_ours(
            Runs(tmp_path, tmp_path / "images").recipe, [*overrides, f"save_folder={tmp_path}/run"]
        ).run
        optimizer = build_optimizer(nn.Linear(2, 2), run)
        peak = optimizer.param_groups[0]["lr"]
        schedule = build_schedule(optimizer, run)
        for _ in range(2):  # of the 8 batches of 16
            optimizer.step()
            schedule.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(peak * quarter)


def test_a_checkpoint_does_not_change_the_kernel() -> None:
    """On CPUs it once was another, which knows no `found_inf`."""
    optimizer, older = (build_optimizer(nn.Linear(2, 2), run_with()) for _ in range(2))
    state = older.state_dict()
    for group in state["param_groups"]:
        group["fused"] = False
    optimizer.load_state_dict(state)
    assert all(group["fused"] for group in optimizer.param_groups)


def test_it_ends_where_it_is_told_and_stays_there() -> None:
    assert warmup_then_decay(1000, 1000, 0.0, final=0.1) == pytest.approx(0.1)
    assert warmup_then_decay(2000, 1000, 0.0, final=0.1) == pytest.approx(0.1)
    assert warmup_then_decay(0, 1000, 0.0, final=0.1) == 1


def test_biases_norms_and_fixed_parameters_are_spared() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))
    model.register_parameter("token", nn.Parameter(torch.zeros(1, 1, 3)))
    model.register_parameter("fixed", nn.Parameter(torch.zeros(2, 3), requires_grad=False))
    optimizer = build_optimizer(model, run_with(4096, optimizer=OptimizerSettings(base_lr=1.5e-4)))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {group["name"]: sorted(names[id(p)] for p in group["params"]) for group in optimizer.param_groups}
    assert groups == {"decayed": ["0.weight", "token"], "not decayed": ["0.bias", "1.bias", "1.weight"]}
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.0]
    assert all(group["lr"] == pytest.approx(2.4e-3) for group in optimizer.param_groups)


class Plain(torch.optim.Optimizer):
    """Gradient descent that knows neither closures nor `found_inf`."""

    def __init__(self, groups: list[dict], /) -> None:
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(group["lr"] * parameter.grad)


class OfTorch(torch.optim.SGD):
    """Not fused, it refuses `found_inf`."""

    def __init__(self, groups: list[dict], /) -> None:
        super().__init__([{**group, "weight_decay": 0.0} for group in groups])


@pytest.mark.parametrize("kind", [Plain, OfTorch])
def test_an_optimizer_of_ones_own_leaves_a_step_out_that_is_judged_in_its_closure(kind: type, monkeypatch) -> None:
    entry = registry.Entry("optimizer", "plain", kind, "here")
    monkeypatch.setitem(registry._entries, ("optimizer", "plain"), {"here": entry})
    model = nn.Linear(2, 1, bias=False)
    optimizer = build_optimizer(model, run_with(optimizer=OptimizerSettings(name="plain", base_lr=0.5)))
    optimizer.found_inf = torch.zeros(())
    before = model.weight.detach().clone()
    for spike in (1.0, 0.0):

        def forward_and_backward(spike: float = spike) -> float:
            loss = model(torch.ones(1, 2)).sum()
            loss.backward()
            optimizer.found_inf.fill_(spike)
            return loss.item()

        optimizer.zero_grad()
        assert optimizer.step(closure=forward_and_backward) == pytest.approx(before.sum().item())
        assert torch.equal(model.weight, before) == bool(spike)
    torch.testing.assert_close(model.weight, before - 0.5)
