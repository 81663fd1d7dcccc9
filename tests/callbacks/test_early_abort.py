"""Limits on metrics."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path

import pytest
from composer.core import Callback, State
from composer.loggers import Logger

from maws_composer import registry
from maws_composer.config.plugins import our_code_paths
from maws_composer.config.problems import ConfigError
from maws_composer.planning.preflight import check_callbacks
from maws_composer.reporting.metrics_file import read_metrics
from maws_composer.resilience.loss_spikes import DivergedError
from tests.callbacks.training import fit, load
from tests.golden_steps import BATCH


def test_a_loss_above_its_limit_ends_the_run_when_it_counts(tmp_path: Path) -> None:
    limits = {"loss": {"above": 0.001, "after": f"{3 * BATCH}sp"}}
    with pytest.raises(DivergedError, match=r"^loss is .* at batch 3, sample 48: above 0\.001, which callbacks\.early"):
        fit(tmp_path, {"early_abort": {"limits": limits}}, 6)
    assert [step["batch"] for step in read_metrics(tmp_path)] == [1, 2, 3]


def test_a_figure_of_an_evaluation_below_its_limit_ends_the_run(tmp_path: Path) -> None:
    limits = {"metrics/eval/loss": {"below": 1000.0}, "loss": {"below": 0.0, "above": 1e9}}
    abort, held_out = {"early_abort": {"limits": limits}}, "data.eval.local=nowhere"
    with pytest.raises(DivergedError, match=r"^metrics/eval/loss is .* at batch 2, sample 32: below 1000"):
        fit(tmp_path, abort, 6, held_out, eval_interval="2ba")
    assert "metrics/eval/loss" in read_metrics(tmp_path)[-1]


def test_a_run_within_its_limits_is_not_ended_and_a_wrong_name_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = {"loss": {"above": 1e9, "below": 0.0}, "los": {"above": 0.0}}
    with caplog.at_level(logging.WARNING):
        assert len(fit(tmp_path, {"early_abort": {"limits": limits}}, 3).steps) == 3
    expected = "early_abort.limits.los does not count: no such metric is logged; nearest is loss; logged are ["
    assert caplog.text.count(expected) == 1 and "'loss'" in caplog.text


def test_a_wrong_name_is_told_before_the_run_has_ended_and_one_to_come_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Watch(Callback):
        def batch_start(self, state: State, logger: Logger) -> None:
            told.append({name for name in limits if f"limits.{name} does not count" in caplog.text})

    told: list[set[str]] = []
    names = ("los", "lr/decayd", "norm/gradient/encoder", "norm/gradient/decoder_blocks.0", "metrics/eval/los")
    limits = {name: {"above": 1e9} for name in names}
    callbacks = {"early_abort": {"limits": limits}, "norms": {"every": "3ba"}}
    with caplog.at_level(logging.WARNING):
        fit(tmp_path, callbacks, 6, "data.eval.local=nowhere", eval_interval="4ba", more=[Watch()])
    early = {"los", "lr/decayd"}  # nothing logs learning rates here
    assert told == [set(), set(), early, early, {*early, "metrics/eval/los"}, {*early, "metrics/eval/los"}]


def test_limits_that_cannot_count_are_told_before_training(tmp_path: Path) -> None:
    limits = {
        "loss": {}, "metrics/eval/loss": {"above": 1}, "eval/knn/top1": {"below": 0.5}, "run/gpu_hours": {"above": 9},
    }  # fmt: skip
    run = load(tmp_path, {"early_abort": {"limits": limits}}).run
    assert [f"{problem.path}: {problem.message}" for problem in check_callbacks(run)] == [
        "callbacks.early_abort.limits.loss: needs above or below",
        "callbacks.early_abort.limits.metrics/eval/loss: comes of held-out samples; set data.eval",
        "callbacks.early_abort.limits.eval/knn/top1: comes of callbacks.online_evaluation; or mean metrics/eval/…",
        "callbacks.early_abort.limits.run/gpu_hours: is of each rank's own clock; callbacks.run_timeout is for times",
    ]
    with pytest.raises(ConfigError, match="after"):
        load(tmp_path, {"early_abort": {"limits": {"loss": {"above": 1, "after": "10ba"}}}})


def test_a_figure_counts_once_and_the_loss_of_a_step_that_was_left_out_does_not() -> None:
    registry.load_plugins(our_code_paths())
    heard = inspect.getmodule(registry.lookup("callback", "early_abort").builder).Heard({"loss", "eval/knn/top1"})
    heard.log_metrics({"eval/knn/top1": 0.1, "loss/train/total": 1.0, "other": 3.0})
    assert heard.take() == {"eval/knn/top1": 0.1, "loss": 1.0}
    heard.log_metrics({"loss/train/total": float("inf")})
    heard.log_metrics({"skipped": 1})
    assert "loss" not in heard.take()
    assert heard.take() == {} and heard.names == {"eval/knn/top1", "loss", "other", "skipped"}
