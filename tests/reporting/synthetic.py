"""Run folders as a training run leaves them behind, made up in a moment."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from maws_composer.reporting.picture_logger import save_picture

GLOBAL_BATCH = 4096
FLOPS = 3.1e10
SPIKE = 1300
_BEGAN = datetime(2026, 11, 20, 8, 0, tzinfo=timezone.utc)
# (processes, first batch, last batch done, hours between its begin and the first one's): two interruptions
_STARTS = ((64, 1, 1040, 0.0), (32, 1001, 1690, 2.5), (64, 1601, 2400, 7.0))


def eventful_run(folder: Path, name: str = "vit-b", stage: str = "mae", level: float = 0.4, **settings: Any) -> Path:
    """A finished run of 2,400 steps: preempted twice, which lost 130 steps, and a spike that was left out."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(_config(name, stage, settings), sort_keys=False))
    rng = np.random.default_rng(len(name))
    hours, seconds = 0.0, [0.0]  # the latter at the end of each batch
    with (folder / "metrics.jsonl").open("w") as metrics, (folder / "starts.jsonl").open("w") as starts:
        for number, (processes, first, last, after) in enumerate(_STARTS, 1):
            starts.write(json.dumps(_start(number, processes, hours, after)) + "\n")
            to_first = 150.0
            hours += to_first / 3600
            del seconds[first:]
            for batch in range(first, last + 1):
                seconds.append(seconds[-1] + 200.0 / processes)
                hours += 200.0 / processes / 3600
                step = _step(batch, processes, level, rng) | {"seconds": round(seconds[-1], 3), "world_size": processes}
                step |= {"run/start": number, "run/wall_hours": round(hours, 6), "run/gpu_hours": round(40 * hours, 4)}
                if batch == first:
                    step |= {"run/seconds_to_first_step": to_first, "run/preemptions": number - 1}
                    step |= {"run/lost_steps": 0 if number == 1 else 40 if number == 2 else 130}
                metrics.write(json.dumps(step) + "\n")
    numbers = {"batch": 2400, "samples": 2400 * GLOBAL_BATCH, "start": 3, "wall_hours": hours, "gpu_hours": 40 * hours}
    status = {"state": "finished", "reason": None, **numbers, "time": (_BEGAN + timedelta(hours=9)).isoformat()}
    (folder / "status.json").write_text(json.dumps(status))
    return folder


def add_pictures(folder: Path, count: int = 4) -> None:
    """Pictures of one thing that gets clearer, as a callback saves them."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:120, 0:360] / 120
    clear = np.stack([(np.sin(6 * rows * k) + np.cos(6 * columns)) / 4 + 0.5 for k in (1, 2, 3)], -1)
    for number in range(1, count + 1):
        blurred = clear + rng.normal(0, 0.4 / number, clear.shape)
        pixels = (blurred.clip(0, 1) * 255).astype(np.uint8)
        batch = 2400 * number // count
        save_picture(folder / "pictures", "reconstructions", pixels, f"reconstructions, after batch {batch:,}", batch)


def _config(name: str, stage: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "run_name": name,
        "stage": stage,
        "model": {"size": "vit_b", "image_size": 224},
        "precision": "amp_bf16",
        "global_train_batch_size": GLOBAL_BATCH,
        "max_duration": f"{2400 * GLOBAL_BATCH}sp",
        "seed": 17,
        "optimizer": {"base_lr": 1.5e-4},
        "data": {"train": {"remote": "s3://bucket/images", "max_bad_share": 0.01}},
        **settings,
    }


def _start(number: int, processes: int, hours: float, after: float) -> dict[str, Any]:
    return {
        "start": number, "time": (_BEGAN + timedelta(hours=after)).isoformat(), "wall_hours": round(hours + 0.01, 6),
        "world_size": processes, "training_flops": FLOPS, "device": "NVIDIA H100 80GB HBM3", "python": "3.11.9",
        "cuda": "12.8", "torch": "2.9.1", "mosaicml": "0.32.1", "mosaicml-streaming": "0.13.0",
    }  # fmt: skip


def _step(batch: int, processes: int, level: float, rng: np.random.Generator) -> dict[str, Any]:
    """What one step logs: callbacks' figures too."""
    loss = level + 0.7 * (1 + batch / 40) ** -0.6 + rng.normal(0, 0.004)
    step: dict[str, Any] = {"batch": batch, "samples": batch * GLOBAL_BATCH, "loss": float(loss)}
    step["grad_norm"] = float(0.3 + rng.gamma(4, 0.02))
    warm = min(batch / 200, 1.0) * 0.5 * (1 + np.cos(np.pi * batch / 2400))
    step |= {"lr/decay": 2.4e-3 * warm, "lr/no_decay": 2.4e-3 * warm}
    step["my_callback/temperature"] = 1 + 1e-3 * batch
    if batch == SPIKE:
        step |= {"loss": 3.2, "grad_norm": 25.0, "skipped": 1}
    if batch in (500, 900):
        step["data/replaced_samples"] = batch // 100
    if batch % 10 == 0:
        step |= {
            "throughput/samples_per_sec": GLOBAL_BATCH * processes / 200 * float(rng.normal(1, 0.01)),
            "throughput/mfu": float(rng.normal(0.43, 0.004)),
            "throughput/input_wait": float(abs(rng.normal(0.012, 0.004))),
            "memory/peak_allocated_gib": 38.2 if processes == 64 else 46.9,
            "memory/reserved_gib": 44.0 if processes == 64 else 52.5,
            "memory/rss_gib": 21 + batch / 2400,
        }
        for block in range(12):
            step[f"norm/gradient/blocks.{block}"] = float(0.02 * (1 + block / 6) * rng.gamma(20, 0.05))
            step[f"norm/parameter/blocks.{block}"] = 20 + block + batch / 300
    if batch % 400 == 0:
        step["metrics/eval/loss"] = float(level + 0.02 + 0.7 * (1 + batch / 40) ** -0.6)
        step |= {f"eval/knn/top{k}": 0.2 * k**0.5 + 0.3 * batch / 2400 for k in (1, 5)}
    return step
