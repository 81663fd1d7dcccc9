"""metrics.jsonl: written by a real Trainer, killed, gone on with, read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from composer import Trainer
from composer.callbacks import LRMonitor
from composer.core import Callback, State
from composer.loggers import Logger
from composer.models import ComposerModel
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanSquaredError

from maws_composer.reporting.metrics_file import read_metrics
from maws_composer.reporting.metrics_logger import MetricsFile


class Line(ComposerModel):
    """y = a x + b."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)

    def forward(self, batch: Any) -> torch.Tensor:
        return self.linear(batch[0])

    def loss(self, outputs: torch.Tensor, batch: Any) -> torch.Tensor:
        return (outputs - batch[1]).square().mean()

    def get_metrics(self, is_train: bool) -> dict[str, Any]:
        return {} if is_train else {"error": MeanSquaredError()}

    def update_metric(self, batch: Any, outputs: torch.Tensor, metric: Any) -> None:
        metric.update(outputs, batch[1])


class Extra(Callback):
    """Logs at every event that a callback may, and fails when asked to."""

    def __init__(self, fail_at: int) -> None:
        self.fail_at = fail_at

    def batch_start(self, state: State, logger: Logger) -> None:
        logger.log_metrics({"extra/start": int(state.timestamp.batch)})

    def batch_end(self, state: State, logger: Logger) -> None:
        logger.log_metrics({"extra/tensor": torch.tensor(2.0), "extra/nan": float("nan")})
        if int(state.timestamp.batch) == self.fail_at:
            raise RuntimeError("fails as asked")


def train(folder: Path, batches: int, load: Path | None = None, fail_at: int = -1) -> None:
    x = torch.arange(64.0)[:, None] / 64
    loader = DataLoader(TensorDataset(x, 2 * x), batch_size=8)
    trainer = Trainer(
        model=Line(),
        train_dataloader=loader,
        eval_dataloader=loader,
        eval_interval="3ba",
        max_duration=f"{batches}ba",
        optimizers=None,
        callbacks=[LRMonitor(), Extra(fail_at)],
        loggers=[MetricsFile(folder)],
        save_folder=str(folder / "checkpoints"),
        save_interval="2ba",
        load_path=str(load) if load else None,
        progress_bar=False,
        device="cpu",
        seed=1,
    )
    try:
        trainer.fit()
    finally:
        trainer.close()


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.filterwarnings("ignore")
def test_every_step_is_one_object_with_all_that_was_logged(tmp_path: Path) -> None:
    train(tmp_path, 7)
    steps = read_metrics(tmp_path)
    assert [step["batch"] for step in steps] == [1, 2, 3, 4, 5, 6, 7]
    assert [step["samples"] for step in steps] == [8, 16, 24, 32, 40, 48, 56]
    assert [step["extra/start"] for step in steps] == [0, 1, 2, 3, 4, 5, 6]
    assert [list(step)[:3] for step in steps] == [["batch", "samples", "loss"]] * 7
    assert all(step["extra/tensor"] == 2.0 and step["extra/nan"] is None for step in steps)
    assert all(step["world_size"] == 1 and "lr-DecoupledSGDW/group0" in step for step in steps)
    assert [step["batch"] for step in steps if "metrics/eval/error" in step] == [3, 6, 7]
    assert all(step["loss"] > 0 for step in steps)
    assert [step["seconds"] for step in steps] == sorted(step["seconds"] for step in steps)


@pytest.mark.filterwarnings("ignore")
def test_after_a_failure_and_a_restart_the_later_line_counts(tmp_path: Path) -> None:
    train(tmp_path / "whole", 8)
    with pytest.raises(RuntimeError, match="fails as asked"):
        train(tmp_path / "cut", 8, fail_at=6)
    assert [line["batch"] for line in lines(tmp_path / "cut")] == [1, 2, 3, 3, 4, 5]
    with (tmp_path / "cut/metrics.jsonl").open("a") as file:
        file.write('{"batch": 6, "sampl')  # as a kill would leave it
    assert [step["batch"] for step in read_metrics(tmp_path / "cut")] == [1, 2, 3, 4, 5]

    train(tmp_path / "cut", 8, load=tmp_path / "cut/checkpoints/ep0-ba4-rank0.pt")
    assert [line["batch"] for line in lines(tmp_path / "cut")] == [1, 2, 3, 3, 4, 5, 5, 6, 6, 7, 8, 8]
    whole, cut = (read_metrics(tmp_path / name) for name in ("whole", "cut"))
    assert [(step["batch"], step["loss"]) for step in cut] == [(step["batch"], step["loss"]) for step in whole]


def test_a_rewind_takes_later_steps_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    batches = [(1, 0.5), (2, 0.4), (3, 9.0), (4, 9.9), (3, 0.3)]
    path.write_text(
        "".join(json.dumps({"batch": batch, "samples": batch, "loss": loss}) + "\n" for batch, loss in batches)
    )
    assert [(step["batch"], step["loss"]) for step in read_metrics(path)] == [(1, 0.5), (2, 0.4), (3, 0.3)]


def test_a_damaged_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"batch": 1, "samples": 8}\n{"batch": 2, "sam\n{"batch": 3, "samples": 24}\n')
    with pytest.raises(ValueError, match=r'metrics.jsonl, line 2: not a JSON object with a batch: \{"batch": 2, "sam'):
        read_metrics(path)
