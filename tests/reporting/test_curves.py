"""Curves of metrics.jsonl: what counts after a rewind, what is kept when they are thinned, and how fast."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maws_composer.reporting import curves as curves_module
from maws_composer.reporting.curves import (
    Curve,
    Curves,
    Start,
    outliers,
    outline,
    read_curves,
    say_processes,
    smoothed,
    throughput,
)
from maws_composer.reporting.metrics_file import read_metrics, records
from tests.reporting.synthetic import SPIKE, eventful_run


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return eventful_run(tmp_path_factory.mktemp("runs") / "run")


def test_curves_are_the_columns_of_the_steps_that_count(run_folder: Path) -> None:
    steps, curves = read_metrics(run_folder), read_curves(run_folder)
    assert len(curves) == len(steps) == 2400
    for key in ("loss", "metrics/eval/loss", "run/wall_hours", "skipped", "norm/gradient/blocks.3", "run/lost_steps"):
        known = [(step["samples"], step[key]) for step in steps if key in step]
        assert list(zip(*(column.tolist() for column in curves[key]), strict=True)) == known


def test_infinite_losses_are_kept_as_such(tmp_path: Path) -> None:
    _write(tmp_path, [{"batch": 1, "loss": 1.0}, {"batch": 2, "loss": None}, {"batch": 3, "loss": 0.5}])
    curve = read_curves(tmp_path)["loss"]
    assert np.isnan(curve.values).tolist() == [False, True, False]
    assert curve.finite.values.tolist() == [1.0, 0.5]


def test_a_line_that_is_read_as_far_as_its_loss_loses_nothing_rare(run_folder: Path) -> None:
    whole, skimmed = _read(run_folder, 1), _read(run_folder, 20)
    for key in ("loss", "skipped", "metrics/eval/loss", "data/replaced_samples", "run/lost_steps"):
        assert np.array_equal(whole[key].values, skimmed[key].values)
        assert np.array_equal(whole[key].samples, skimmed[key].samples)
    assert whole.starts == skimmed.starts
    assert [lost.end for lost in whole.lost] == [lost.end for lost in skimmed.lost]
    assert len(skimmed["grad_norm"].values) < len(whole["grad_norm"].values) / 3
    assert skimmed.last("grad_norm") == whole.last("grad_norm")


def test_a_large_file_is_skimmed(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves_module, "_READ_IN_FULL", (run_folder / "metrics.jsonl").stat().st_size // 10)
    curves = read_curves(run_folder)
    assert len(curves["loss"].values) == 2400 > 3 * len(curves["grad_norm"].values)


def test_a_torn_line_is_left_out_at_the_end_only(tmp_path: Path) -> None:
    lines = [json.dumps({"batch": batch, "samples": 8 * batch, "loss": 0.5, "x": 1}) for batch in range(1, 9)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines)[:-4])
    assert len(_read(tmp_path, 3)) == len(_read(tmp_path, 1)) == 7
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines[:2], lines[2][:9], *lines[3:]]) + "\n")
    with pytest.raises(ValueError, match="line 3"):
        _read(tmp_path, 4)


def test_no_spike_gets_lost_in_thinning() -> None:
    samples = np.arange(100_000.0)
    values = np.sin(samples / 9e3)
    values[77_777] = 50.0
    thin = outline(Curve(samples, values))
    assert len(thin.samples) <= 800 and 77_777 in thin.samples and thin.values.max() == 50
    assert np.all(np.diff(thin.samples) > 0)
    smooth = smoothed(Curve(samples, values))
    assert smooth.values.max() <= 1
    assert np.abs(smooth.values - np.sin(smooth.samples / 9e3)).max() < 1e-3


def test_throughput_follows_the_number_of_processes(run_folder: Path) -> None:
    rate = throughput(read_curves(run_folder))
    on_64, on_32 = 4096 * 64 / 200, 4096 * 32 / 200
    assert rate.values[3] == pytest.approx(on_64) and rate.values[len(rate.values) // 2] == pytest.approx(on_32)


def test_a_loss_that_stands_out_is_found_and_one_that_was_left_out_is_not(tmp_path: Path) -> None:
    folder = eventful_run(tmp_path / "run")
    assert outliers(read_curves(folder)) == []
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(text.replace(', "skipped": 1', ""))
    assert outliers(read_curves(folder)) == [SPIKE]


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ([1, 1], "1 process"),
        ([64, 64, 32, 64], "64, then 32, then 64 processes"),
        ([8, 64, 16, 64, 16, 32, 64], "8 to 64 processes"),
    ],
)
def test_processes_are_told_briefly(sizes: list[int], says: str) -> None:
    assert say_processes([Start(number, size, 1, 2, 0.0, 1.0, 0.0, 0) for number, size in enumerate(sizes)]) == says


def _read(folder: Path, in_full: int) -> Curves:
    curves = Curves()
    for record in records(folder, in_full):
        curves.add(record)
    return curves


def _write(folder: Path, steps: list[dict[str, Any]]) -> None:
    lines = [json.dumps({"samples": 8 * step["batch"], **step}) for step in steps]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
