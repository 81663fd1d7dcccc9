"""What a run says of itself while it runs: the same in a terminal and in a log."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import struct
import sys
import termios
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from composer import Trainer
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist
from torch.utils.data import DataLoader, TensorDataset

from maws_composer.config.build import build
from maws_composer.config.durations import parse_duration
from maws_composer.config.plugins import our_code_paths
from maws_composer.registry import load_plugins, lookup
from maws_composer.reporting.progress_bar import ProgressBar
from tests.reporting.test_metrics_file import Line

GLOBAL_BATCH = 8


class Clock:
    """Instead of time.monotonic."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("maws_composer.reporting.progress_bar.time.monotonic", clock)
    return clock


def at(samples: int, length: int = 1000) -> Any:
    """A state after so many samples."""
    return SimpleNamespace(
        timestamp=SimpleNamespace(sample=samples, batch=samples // GLOBAL_BATCH),
        max_duration=SimpleNamespace(value=length),
    )


def bar(every: float = 60.0, save: str = "10ba") -> ProgressBar:
    return ProgressBar(every, parse_duration(save), GLOBAL_BATCH, "images", terminal=False)


def test_times_follow_from_this_starts_speed(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    """A run that goes on at sample 400, compiles for 300 s in its first step, then does 4 samples a second."""
    caplog.set_level(logging.INFO)
    logger = bar(every=1.0)
    clock.now = 300.0
    logger.batch_end(at(408), None)
    assert caplog.messages[-1] == "408 of 1,000 images"  # nothing is known of its speed yet
    clock.now = 310.0
    logger.batch_end(at(448), None)
    # 480 is the next multiple of 10 batches of 8
    assert caplog.messages[-1] == "448 of 1,000 images, 4 images/s, save in 0:00:08, end in 0:02:18"


def test_after_going_back_the_speed_is_measured_anew(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    caplog.set_level(logging.INFO)
    logger = bar(every=1.0)
    for clock.now, samples in ((0.0, 8), (10.0, 808)):
        logger.batch_end(at(samples), None)
    logger.after_load(at(400), None)
    for clock.now, samples in ((20.0, 408), (30.0, 418)):
        logger.batch_end(at(samples), None)
    assert "1 images/s" in caplog.messages[-1] and "end in 0:09:42" in caplog.messages[-1]


def test_what_callbacks_log_is_shown(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    caplog.set_level(logging.INFO)
    logger = bar(every=1.0)
    logger.batch_end(at(8), None)
    clock.now = 2.0
    logger.log_metrics({"loss/train/total": 0.71234, "throughput/samples_per_sec": 25_110.4})
    logger.log_metrics({"throughput/mfu": 0.413, "throughput/input_wait": 0.02, "lr/decayed": 1e-3})
    logger.batch_end(at(16), None)
    assert caplog.messages[-1].startswith(
        "16 of 1,000 images, loss 0.7123, 25,110 images/s, MFU 41%, waiting for data 2%, save in"
    )


def test_without_a_terminal_there_is_a_line_per_interval_and_one_at_the_end(
    caplog: pytest.LogCaptureFixture, clock: Clock
) -> None:
    caplog.set_level(logging.INFO)
    logger = bar(every=60.0)
    for step in range(1, 126):
        clock.now = 5.0 * step
        logger.batch_end(at(8 * step), None)
    told = [int(message.split(" of ")[0].replace(",", "")) for message in caplog.messages]
    assert told == [8 * step for step in (*range(1, 125, 12), 125)]


def test_the_next_save_may_be_counted_in_samples_and_is_never_after_the_end(clock: Clock) -> None:
    in_samples = bar(save="300sp")
    in_samples.batch_end(at(8), None)
    clock.now = 1.0
    # 20 a second: 272 to the next save, 972 to the end
    assert in_samples.describe(28, 1000).endswith("save in 0:00:14, end in 0:00:49")
    clock.now = 50.0
    assert in_samples.describe(908, 1000).endswith("save in 0:00:05, end in 0:00:05")


def test_other_ranks_say_nothing(
    caplog: pytest.LogCaptureFixture, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(dist, "get_global_rank", lambda: 1)
    bar().batch_end(at(8), None)
    assert not caplog.messages


@pytest.mark.parametrize(("rows", "columns", "shows_bar"), [(40, 120, True), (0, 0, False)])
def test_a_terminal_without_a_size_gets_lines(
    rows: int, columns: int, shows_bar: bool, clock: Clock, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO)
    reader, writer = os.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    with os.fdopen(writer, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        logger = ProgressBar(60.0, parse_duration("10ba"), GLOBAL_BATCH, "images")
        logger.fit_start(at(0), None)
        logger.batch_end(at(8), None)
        logger.close(at(8), None)
    assert ("8 of 1,000 images" in everything_from(reader)) == shows_bar
    assert (caplog.messages == ["8 of 1,000 images"]) == (not shows_bar)


def everything_from(reader: int) -> str:
    """What was written to a terminal whose other end is closed."""
    parts = []
    with suppress(OSError):  # which is how it says that there is no more
        while part := os.read(reader, 10_000):
            parts.append(part)
    os.close(reader)
    return b"".join(parts).decode()


def test_pairs_are_called_pairs() -> None:
    load_plugins(our_code_paths())
    for stage, unit in (("mae", "images"), ("lit", "pairs")):
        model = {"image_embeddings": False} if stage == "lit" else {}
        run = SimpleNamespace(stage=stage, model=model, save_interval="10ba", global_train_batch_size=8)
        assert build(lookup("logger", "progress_bar"), {}, run).describe(1, 2) == f"1 of 2 {unit}"


class StateOfBar(Callback):
    """Keeps what a checkpoint would hold of the bar before the first step, and after each."""

    def __init__(self) -> None:
        self.states: list[Any] = []

    def fit_start(self, state: State, logger: Logger) -> None:
        self.batch_checkpoint(state, logger)

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        self.states += [each.state_dict() for each in state.callbacks if isinstance(each, ProgressBar)]


def train(folder: Path, batches: int, load: Path | None = None) -> StateOfBar:
    x = torch.arange(64.0)[:, None] / 64
    loader = DataLoader(TensorDataset(x, 2 * x), batch_size=GLOBAL_BATCH)
    seen = StateOfBar()
    trainer = Trainer(
        model=Line(), train_dataloader=loader, eval_dataloader=loader, eval_interval="4ba",
        max_duration=f"{GLOBAL_BATCH * batches}sp", callbacks=[seen],
        loggers=[ProgressBar(60.0, parse_duration("2ba"), GLOBAL_BATCH, "images", terminal=True)],
        save_folder=str(folder), save_interval="2ba", load_path=str(load) if load else None, progress_bar=False,
        device="cpu", seed=1,
    )  # fmt: skip
    try:
        trainer.fit()
    finally:
        trainer.close()
    return seen


@pytest.mark.filterwarnings("ignore")
def test_in_a_terminal_a_resumed_bar_begins_where_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "maws_composer")
    seen = train(tmp_path, 6)
    assert seen.states == [{}] * 7  # a checkpoint's shape may not depend on when it was taken
    assert "evaluating eval:   0%|" in capsys.readouterr().err
    assert any(re.fullmatch(r"eval at batch 4: error \d+\.\d+", message) for message in caplog.messages)

    train(tmp_path, 8, load=tmp_path / "ep0-ba6-rank0.pt")
    shown = capsys.readouterr().err
    assert re.findall(r"(\d+) %\|", shown)[0] == "75"
    assert re.search(r"100 %\|█+\| 64 of 64 images, loss \d+\.\d{4}, [\d,]+ images/s\n", shown)
