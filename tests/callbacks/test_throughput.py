"""Throughput, by a clock that moves only when the test says so."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from composer.core import Callback, State
from composer.loggers import Logger

from maws_composer.config.problems import ConfigError
from maws_composer.models.sizes import DecoderSize
from maws_composer.planning.flops import mae_macs
from maws_composer.planning.gpus import peak_flops
from maws_composer.registry import lookup
from tests.callbacks.training import fit, load
from tests.golden_steps import BATCH, SIZE


class Clock(Callback):
    """Each step waits 0.1 s for data and computes for 0.3 s, the first one for a minute; then 5 s go by."""

    now = 0.0

    def before_dataloader(self, state: State, logger: Logger) -> None:
        self.now += 0.1

    def batch_start(self, state: State, logger: Logger) -> None:
        self.now += 0.3 if state.timestamp.batch > 0 else 60.0

    def batch_end(self, state: State, logger: Logger) -> None:
        self.now += 5.0


def plugin_module(tmp_path: Path) -> object:
    load(tmp_path / "loads", {"throughput": {}})
    return sys.modules[lookup("callback", "throughput").builder.__module__]


def test_pace_and_input_wait_are_those_of_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(plugin_module(tmp_path), "time", SimpleNamespace(perf_counter=lambda: clock.now))
    steps = fit(tmp_path / "run", {"throughput": {"every": "2ba"}}, steps=6, more=[clock]).steps
    logged = {step["batch"]: step for step in steps if "throughput/samples_per_sec" in step}
    assert list(logged) == [3, 5, 6]  # one step late, and at the end
    size = lookup("size", "vit_micro").builder
    flops = 6 * mae_macs(size, SIZE, 0.75, DecoderSize(32, 1, 2)).total
    for step in logged.values():
        assert step["throughput/samples_per_sec"] == pytest.approx(BATCH / 0.4)
        assert step["throughput/input_wait"] == pytest.approx(0.25)
        assert step["throughput/flops_per_sec"] == pytest.approx(BATCH / 0.4 * flops)
        assert "throughput/mfu" not in step  # a CPU has no nominal peak


@pytest.mark.parametrize(
    ("device", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "amp_bf16", 989e12),
        ("NVIDIA A100-SXM4-40GB", "tf32", 156e12),
        ("NVIDIA H200", "fp32", 67e12),
        ("NVIDIA H100 PCIe", "amp_bf16", None),
        ("NVIDIA GeForce RTX 4090", "amp_bf16", None),
    ],
)
def test_only_known_devices_have_a_peak(device: str, precision: str, peak: float | None) -> None:
    assert peak_flops(device, precision) == peak


def test_an_interval_in_epochs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected batches or samples such as 100ba"):
        load(tmp_path, {"throughput": {"every": "1ep"}})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_marks_on_a_gpu_are_past_when_the_gpu_has_come_to_them(tmp_path: Path) -> None:
    mark = plugin_module(tmp_path).Mark  # type: ignore[attr-defined]
    begins = mark()
    torch.cuda._sleep(1_000_000_000)
    ends = mark()
    assert not ends.is_past()
    torch.cuda.synchronize()
    assert ends.is_past() and 0.1 < ends.seconds_since(begins) < 10
