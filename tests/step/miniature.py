"""Each stage in miniature, in Composer's loop as train.py builds it, on generated batches and in this process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from composer import Trainer
from composer.core import Callback, DataSpec, Evaluator, Time
from composer.devices import Device, DeviceCPU
from composer.models import ComposerModel

from maws_composer.checkpoints.run_folder import RunFolder
from maws_composer.config.build import build_all
from maws_composer.config.durations import samples
from maws_composer.config.plugins import load_with_ours
from maws_composer.config.run import Run
from maws_composer.data.batches import count_samples, count_training_samples, split_batch
from maws_composer.optim.build import build_optimizer
from maws_composer.optim.schedule import build_schedule
from maws_composer.parallel.agree import cpu_group
from maws_composer.parallel.shard import already_sharded, shard
from maws_composer.planning.microbatch import agree_on_memory
from maws_composer.reporting.metrics_logger import MetricsFile
from maws_composer.resilience.bad_samples import BadSamples
from maws_composer.resilience.history import Numbers, RunHistory
from maws_composer.resilience.loss_spikes import LossSpikes
from maws_composer.resilience.preemption import Preemption
from maws_composer.stages.build import build_stage, callbacks_of
from tests.text_towers import write_text_tower

STAGES = ("mae", pytest.param("wsp", marks=pytest.mark.slow), "lit")  # in wsp nothing is that the others have not
BATCH, SIZE, CLASSES, LENGTH = 8, 24, 20, 12


def load(stage: str, folder: Path, *overrides: str) -> Run:
    """A checked run with the callbacks that our recipes have."""
    model: dict[str, Any] = {"size": "vit_micro", "image_size": SIZE}
    if stage == "mae":
        model["decoder"] = {"width": 32, "depth": 2, "heads": 2}
    elif stage == "wsp":
        model["num_classes"] = CLASSES
    else:
        model["text"] = {"name": str(write_text_tower(folder / "text")), "context_length": LENGTH, "pretrained": False}
        model["embed_dim"] = 16
    recipe = {
        "stage": stage,
        "model": model,
        "data": {"train": {"local": "nowhere", "num_canonical_nodes": 1}},
        "global_train_batch_size": BATCH,
        "max_duration": f"{100 * BATCH}sp",
        "gradient_clip": 1.0,
        "save_folder": str(folder),
        "callbacks": {"throughput": {}, "memory": {}, "norms": {}, "learning_rates": {}},
    }
    if stage == "lit":
        recipe["initialize_from"] = "nowhere"
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return load_with_ours(folder / "recipe.yaml", overrides).run


def build_trainer(
    run: Run,
    folder: Path,
    batches: Sequence[dict[str, Any]],
    eval_batch: dict[str, Any] | None,
    device: Device | None = None,
) -> Trainer:
    """With sharding and callbacks as in train.py, but for checkpoints, status and report.

    Args:
        eval_batch: on which it is evaluated every other step. None: never.
        device: as Composer's trainer takes it.
    """
    stage, (_, speed) = build_stage(run), agree_on_memory(run)
    shard(stage, speed, run.precision, run.seed, torch.device("cpu"))
    optimizer, group = build_optimizer(stage, run), cpu_group(60)
    own: list[Callback] = [
        RunHistory(Numbers()),
        BadSamples(run.data.train.max_bad_share, group),
        LossSpikes(run, RunFolder(str(folder), folder)),
        *callbacks_of(stage),
        Preemption(run.preemption, group),
        *build_all("callback", run.callbacks, run),
    ]
    microbatch = run.speed.device_train_microbatch_size
    return Trainer(
        model=stage,
        train_dataloader=DataSpec(batches, split_batch=split_batch, get_num_samples_in_batch=count_training_samples),
        eval_dataloader=_evaluator(stage, eval_batch) if eval_batch else None,
        eval_interval="2ba",
        optimizers=optimizer,
        schedulers=build_schedule(optimizer, run),
        step_schedulers_every_batch=True,
        callbacks=own,
        loggers=[MetricsFile(folder)],
        max_duration=Time(samples(run.max_duration), "sp"),
        device=device or DeviceCPU(),
        device_train_microbatch_size=microbatch if isinstance(microbatch, int) else BATCH,
        precision="fp32",
        parallelism_config={"fsdp": already_sharded()},
        spin_dataloaders=False,
        progress_bar=False,
        auto_log_hparams=False,
    )


def _evaluator(stage: ComposerModel, batch: dict[str, Any]) -> Evaluator:
    return Evaluator(
        label="eval",
        dataloader=DataSpec([batch], split_batch=split_batch, get_num_samples_in_batch=count_samples),
        metric_names=[*stage.get_metrics(False)],
        device_eval_microbatch_size=len(batch["valid"]),
    )


def make_batch(stage: str, number: int = 0, size: int = BATCH, side: int = SIZE) -> dict[str, Any]:
    """As the loaders collate them; each number another."""
    generator = torch.Generator().manual_seed(number)
    draw = partial(torch.randint, generator=generator)
    batch: dict[str, Any] = {
        "image": draw(256, (size, 3, side, side), dtype=torch.uint8),
        "position": torch.arange(number * size, (number + 1) * size),
        "epoch": torch.zeros(size, dtype=torch.int64),
        "valid": torch.ones(size, dtype=torch.bool),
        "replaced": torch.zeros(size, dtype=torch.bool),
    }
    if stage == "wsp":
        batch["labels"] = draw(CLASSES, (size, 1 + number % 3))  # the most labels that an image of the batch has
    elif stage == "lit":
        batch["caption"] = [f"{number} {row}" for row in range(size)]
        batch["input_ids"] = draw(4, 60, (size, LENGTH))
        lengths = draw(3, LENGTH + 1, (size, 1)) if number % 2 else LENGTH  # of every other batch all are full
        batch["attention_mask"] = (torch.arange(LENGTH).expand(size, -1) < lengths).long()
    return batch
