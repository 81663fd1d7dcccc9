"""Short trainings with callbacks, in this process or as ranks: all that train.py does but data and status.

As a script: `training.py {"folder": …, "callbacks": {…}, …}`, a rank; prints the steps of metrics.jsonl, and the mesh.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch.distributed as dist
import yaml
from composer import Trainer
from composer.core import Callback, DataSpec, Evaluator, Time
from composer.models import ComposerModel
from torch import nn

from maws_composer.checkpoints.resume import Resume, ResumePoint
from maws_composer.checkpoints.run_folder import RunFolder
from maws_composer.checkpoints.saving import ShardedCheckpoints
from maws_composer.config.build import build_all
from maws_composer.config.durations import samples
from maws_composer.config.load import LoadedRun
from maws_composer.config.plugins import load_with_ours
from maws_composer.optim.build import build_optimizer
from maws_composer.optim.schedule import build_schedule
from maws_composer.parallel.agree import cpu_group
from maws_composer.parallel.leave import leave_process_group
from maws_composer.parallel.precision import torch_device
from maws_composer.parallel.shard import already_sharded, shard
from maws_composer.planning.microbatch import agree_on_memory
from maws_composer.reporting.metrics_file import read_metrics
from maws_composer.reporting.metrics_logger import MetricsFile
from maws_composer.reporting.picture_logger import PictureFiles
from maws_composer.resilience.preemption import Preemption
from maws_composer.stages.build import build_stage
from tests.golden_steps import BATCH, SIZE, batches

TRAINING = Path(__file__)  # for run_ranks
Callbacks = Mapping[str, Mapping[str, Any]]


@dataclass
class Trained:
    """What is left of a training."""

    steps: list[dict[str, Any]]
    stage: nn.Module
    folder: Path


def load(folder: Path, callbacks: Callbacks, steps: int = 6, *overrides: str) -> LoadedRun:
    """A checked run of a tiny MAE; raises ConfigError."""
    recipe = {
        "stage": "mae",
        "model": {"size": "vit_micro", "image_size": SIZE, "decoder": {"width": 32, "depth": 1, "heads": 2}},
        "data": {"train": {"local": "nowhere", "num_canonical_nodes": 1}},
        "global_train_batch_size": BATCH,
        "max_duration": f"{steps * BATCH}sp",
        "optimizer": {"base_lr": 0.02},
        "save_folder": str(folder),
        "callbacks": {name: dict(arguments) for name, arguments in callbacks.items()},
    }
    own = folder / f"of-rank-{os.environ.get('RANK', 0)}"  # none reads what another is writing
    own.mkdir(parents=True, exist_ok=True)
    file = own / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return load_with_ours(file, overrides)


def fit(
    folder: Path,
    callbacks: Callbacks,
    steps: int = 6,
    *overrides: str,
    eval_interval: str | None = None,
    resume_from: str | None = None,
    more: Sequence[Callback] = (),
) -> Trained:
    """Train in the process group that there is. Evaluates on two batches, if at all.

    Args:
        resume_from: a checkpoint.
        more: callbacks that come last.
    """
    run = load(folder, callbacks, steps, *overrides).run
    stage, (_, speed) = build_stage(run), agree_on_memory(run)
    shard(stage, speed, run.precision, run.seed, torch_device())
    optimizer = build_optimizer(stage, run)
    group = cpu_group(60)
    trainer = Trainer(
        model=stage,
        train_dataloader=_shared_out(batches()[:steps]),
        eval_dataloader=_held_out(stage) if eval_interval else None,
        eval_interval=eval_interval or 1,
        optimizers=optimizer,
        schedulers=build_schedule(optimizer, run),
        algorithms=build_all("algorithm", run.algorithms, run),
        step_schedulers_every_batch=True,
        callbacks=[
            *([Resume(ResumePoint(Path(resume_from), 0))] if resume_from else []),
            Preemption(run.preemption, group),
            *build_all("callback", run.callbacks, run),
            *more,
            ShardedCheckpoints(RunFolder(str(folder), folder), run, group),
        ],
        loggers=[MetricsFile(folder), PictureFiles(folder)],
        max_duration=Time(samples(run.max_duration), "sp"),
        device="cpu",
        device_train_microbatch_size=BATCH // dist.get_world_size(),
        precision="fp32",
        parallelism_config={"fsdp": already_sharded()},
        progress_bar=False,
        auto_log_hparams=False,
    )
    try:
        trainer.fit()
    finally:
        trainer.close()
    return Trained(read_metrics(folder) if dist.get_rank() == 0 else [], stage, folder)


def _held_out(stage: ComposerModel) -> Evaluator:
    return Evaluator(
        label="eval",
        dataloader=_shared_out(batches()[:2]),
        metric_names=[*stage.get_metrics(False)],
        device_eval_microbatch_size=BATCH,
    )


def _shared_out(whole: list[dict[str, Any]]) -> DataSpec:
    """This rank's rows of each global batch."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    own = [{name: values[rank::ranks] for name, values in batch.items()} for batch in whole]
    return DataSpec(Loader(own), get_num_samples_in_batch=lambda batch: len(batch["image"]))


class Loader(list[dict[str, Any]]):
    """A rank's batches, which know how many samples all ranks have."""

    def __init__(self, own: list[dict[str, Any]]) -> None:
        super().__init__(own)
        self.dataset = SimpleNamespace(order=SimpleNamespace(samples=BATCH * len(own)))


def main(arguments: dict[str, Any]) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    dist.init_process_group("gloo")
    folder, callbacks, steps = (arguments[name] for name in ("folder", "callbacks", "steps"))
    others = {name: arguments[name] for name in ("eval_interval", "resume_from") if name in arguments}
    trained = fit(Path(folder), callbacks, steps, *arguments.get("overrides", ()), **others)
    mesh = next(trained.stage.parameters()).device_mesh
    print(json.dumps({"steps": trained.steps, "mesh": list(mesh.shape)}), flush=True)
    leave_process_group()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
