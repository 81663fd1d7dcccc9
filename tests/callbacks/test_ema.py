"""The moving average, against the formula, through interruptions and out of an export."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from composer.core import Callback, State
from composer.loggers import Logger
from safetensors.torch import load_file
from torch import Tensor

from maws_composer.checkpoints.weights import SavedModel
from maws_composer.cli import main
from tests.callbacks.training import fit
from tests.golden_steps import BATCH
from tests.runs import Finished, Runs

HALF_LIFE = 3 * BATCH
STEPS = 12
SETTINGS = (f"callbacks.ema.half_life={HALF_LIFE}sp", f"max_duration={STEPS * 16}sp", "save_interval=4ba")
SETTINGS = (*SETTINGS, "optimizer.eps=1e-3")  # or Adam makes steps of the last digits where a gradient is 0


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
    fit(tmp_path, {"ema": {"half_life": f"{HALF_LIFE}sp"}}, 6, more=[whole])
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


def averages(finished: Finished) -> dict[str, Tensor]:
    assert finished.code == 0, finished.output
    saved = SavedModel(finished.folder / "checkpoints" / f"ep0-ba{STEPS}", averaged=True)
    return {name: saved.read(name) for name in saved.shapes}


def test_it_goes_on_on_other_numbers_of_processes_and_can_be_taken_away(runs: Runs, tmp_path: Path) -> None:
    whole = averages(runs("whole", *SETTINGS, processes=2))
    runs("cut", *SETTINGS, processes=2, kill_after=6)
    shutil.copytree(tmp_path / "cut", tmp_path / "halved")
    again = averages(runs("cut", *SETTINGS, processes=2))
    assert all(torch.equal(again[name], weight) for name, weight in whole.items())
    halved = averages(runs("halved", *SETTINGS, processes=1))
    torch.testing.assert_close(halved, whole, rtol=1e-6, atol=1e-6)

    run, out = str(tmp_path / "cut"), tmp_path / "exported"
    assert main(["export", f"{run}#ema", "--to", "timm", str(out)]) == 0
    last = SavedModel(tmp_path / "cut" / "checkpoints" / f"ep0-ba{STEPS}")
    for name, exported in load_file(out / "model.safetensors").items():
        assert torch.equal(exported, whole[f"mae.encoder.{name}"])
        is_trained = name != "pos_embed"
        assert torch.equal(exported, last.read(f"mae.encoder.{name}")) != is_trained


def test_a_run_without_it_has_no_average(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs("plain", "max_duration=32sp", "save_interval=1ba")
    assert main(["export", f"{tmp_path / 'plain'}#ema", "--to", "timm", str(tmp_path / "out")]) == 2
    assert "has no moving average of weights: its run was without callbacks.ema" in capsys.readouterr().err
    later = runs("plain", "callbacks.ema.half_life=16sp", "max_duration=64sp", "allow_changed_config=true")
    assert later.code == 0 and "no average of these weights was saved; it begins at batch 2" in later.output
