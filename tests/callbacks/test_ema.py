"""The moving average, against the formula, through interruptions and out of an export."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from composer.core import Callback, State
from composer.loggers import Logger
from safetensors.torch import load_file
from torch import Tensor

from maws_composer.checkpoints.weights import SavedModel
from maws_composer.cli import main
from tests.callbacks.training import TRAINING, fit
from tests.golden_steps import BATCH
from tests.processes import run_ranks

HALF_LIFE = 3 * BATCH
STEPS = 6
EMA = {"ema": {"half_life": f"{HALF_LIFE}sp"}}
# With a small eps, Adam would make steps of the last digits where a gradient is 0.
SETTINGS = ("save_interval=3ba", "optimizer.eps=1e-3")


class Whole(Callback):
    """Trained weights before the first step and after each, whole."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []

    def fit_start(self, state: State, logger: Logger) -> None:
        self.batch_end(state, logger)

    def batch_end(self, state: State, logger: Logger) -> None:
        trained = {name: each for name, each in state.model.named_parameters() if each.requires_grad}
        self.weights.append({name: each.full_tensor().detach().double() for name, each in trained.items()})
        self.averager = next(each for each in state.callbacks if type(each).__qualname__ == "EMA")


def test_a_step_counts_half_after_the_half_life(tmp_path: Path) -> None:
    whole = Whole()
    fit(tmp_path, EMA, 6, more=[whole])
    share = 1 - 0.5 ** (1 / 3)
    for name, found in whole.averager.weights.items():
        begin, *after = (weights[name] for weights in whole.weights)
        assert (1 - share) ** 6 == pytest.approx(0.25)  # two half-lives
        expected = 0.25 * begin
        for ago, weight in enumerate(reversed(after)):
            expected = expected + share * (1 - share) ** ago * weight
        torch.testing.assert_close(found.full_tensor().double(), expected, rtol=1e-5, atol=1e-6)
    assert any(
        not torch.equal(begin, now) for begin, now in zip(*(w.values() for w in whole.weights[::6]), strict=True)
    )


def averages(folder: Path) -> dict[str, Tensor]:
    saved = SavedModel(folder / "checkpoints" / f"ep0-ba{STEPS}", averaged=True)
    return {name: saved.read(name) for name in saved.shapes}


def on_two_ranks(folder: Path, **others: str) -> dict[str, Tensor]:
    arguments = {"folder": str(folder), "callbacks": EMA, "steps": STEPS, "overrides": SETTINGS, **others}
    run_ranks(TRAINING, arguments, world_size=2)
    return averages(folder)


def test_it_goes_on_on_other_numbers_of_processes_and_can_be_taken_away(tmp_path: Path) -> None:
    whole = on_two_ranks(tmp_path / "whole")
    half = str(tmp_path / "whole" / "checkpoints" / f"ep0-ba{STEPS // 2}")
    again = on_two_ranks(tmp_path / "again", resume_from=half)
    assert all(torch.equal(again[name], weight) for name, weight in whole.items())
    fit(tmp_path / "alone", EMA, STEPS, *SETTINGS, resume_from=half)
    torch.testing.assert_close(averages(tmp_path / "alone"), whole, rtol=1e-6, atol=1e-6)

    out = tmp_path / "exported"
    assert main(["export", f"{tmp_path / 'whole'}#ema", "--to", "timm", str(out)]) == 0
    last = SavedModel(tmp_path / "whole" / "checkpoints" / f"ep0-ba{STEPS}")
    for name, exported in load_file(out / "model.safetensors").items():
        assert torch.equal(exported, whole[f"mae.encoder.{name}"])
        is_trained = name != "pos_embed"
        assert torch.equal(exported, last.read(f"mae.encoder.{name}")) != is_trained


def test_a_run_that_gets_it_later_averages_from_there_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    fit(tmp_path / "plain", {}, STEPS, *SETTINGS)
    assert main(["export", f"{tmp_path / 'plain'}#ema", "--to", "timm", str(tmp_path / "out")]) == 2
    assert "has no moving average of weights: its run was without callbacks.ema" in capsys.readouterr().err
    whole, half = Whole(), str(tmp_path / "plain" / "checkpoints" / f"ep0-ba{STEPS // 2}")
    with caplog.at_level(logging.INFO):
        fit(tmp_path / "later", {"ema": {"half_life": "1sp"}}, STEPS, *SETTINGS, resume_from=half, more=[whole])
    assert f"no average of these weights was saved; it begins at batch {STEPS // 2}" in caplog.text
    for name, average in whole.averager.weights.items():  # 16 half-lives a step: the weights themselves
        torch.testing.assert_close(average.full_tensor().double(), whole.weights[-1][name], rtol=1e-3, atol=1e-5)
