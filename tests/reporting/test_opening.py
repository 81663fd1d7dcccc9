"""The first lines of a run say what a person would ask."""

from __future__ import annotations

from pathlib import Path

import yaml

from maws_composer.checkpoints.resume import ResumePoint
from maws_composer.config.plugins import load_with_ours
from maws_composer.data.loader import build_train_loader
from maws_composer.data.loader_processes import usable_cores
from maws_composer.reporting.opening import opening
from maws_composer.stages.build import build_stage
from tests.processes import ROOT
from tests.runs import write_images


def say(tmp_path: Path, *overrides: str, resume_from: ResumePoint | None = None) -> dict[str, list[str]]:
    """The lines by what they are about; there may be several of one."""
    images = tmp_path / "images"
    if not images.exists():
        write_images(images, count=100)
    recipe = {
        "stage": "mae",
        "model": {"size": "vit_micro", "image_size": 24, "decoder": {"width": 96, "depth": 2, "heads": 4}},
        "data": {"train": {"local": str(images), "num_canonical_nodes": 4, "shuffle_block_size": 128}},
        "global_train_batch_size": 16,
        "max_duration": "960sp",
        "save_folder": str(tmp_path / "run"),
        "save_interval": "10ba",
        "speed": {"workers": 0, "scratch_folder": str(tmp_path / "scratch")},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    run = load_with_ours(tmp_path / "tiny.yaml", overrides).run
    data = build_train_loader(run).dataloader.dataset
    title, *lines = opening(run, build_stage(run), data, 8, run.speed, resume_from).splitlines()
    assert title == "tiny"
    told: dict[str, list[str]] = {}
    for line in lines:
        what, _, value = line.strip().partition(": ")
        told.setdefault(what, []).append(value)
    return told


def test_what_on_what_and_for_how_long(tmp_path: Path) -> None:
    told = say(tmp_path)
    run = load_with_ours(tmp_path / "tiny.yaml").run
    parameters = list(build_stage(run).parameters())
    total, trained = (
        sum(each.numel() for each in chosen)
        for chosen in (parameters, [each for each in parameters if each.requires_grad])
    )
    assert told["training"] == [f"mae, vit_micro, 24 px; {total:,} parameters, {trained:,} of them trained"]
    assert told["on"][0].endswith("; fp32")
    assert told["a step"][0].startswith("16 samples, 16 on each process in microbatches of 8; by the estimate it needs")
    assert told["data"][0] == str(tmp_path / "images") and told["data"][1].startswith("an epoch is 96 samples from")
    assert told["length"] == ["960 samples = 60 steps = 10 epochs"]
    assert len(told["attention"]) == 1 and "(auto: " in told["attention"][0]
    assert told["writes"] == [f"{tmp_path / 'run'}; a checkpoint every 10ba, the newest 3 are kept"]
    assert told["may be resumed on"] == ["1, 2, 4 processes"]
    assert told["sharding"] == ["1 process = 1 replica x 1 shard; blocks are gathered again for the backward pass"]
    assert "by" not in told


def test_what_is_not_as_usual_is_named(tmp_path: Path) -> None:
    usual = ("optimizer.name=adamw", "schedule.name=warmup_then_decay")
    assert "by" not in say(tmp_path, *usual)
    own = ("optimizer.name=my_lion", "schedule.name=my_steps", "data.train.transform={name: my_square, size: 24}")
    clipping = "algorithms.gradient_clipping.clipping_threshold=0.1"
    told = say(tmp_path, *own, clipping, f"code_paths=[{ROOT / 'tests/plugins/user'}]")
    assert told["by"] == ["optimizer my_lion, schedule my_steps, transform my_square, algorithm gradient_clipping"]


def test_from_where(tmp_path: Path) -> None:
    assert say(tmp_path)["begins"] == ["at sample 0, with weights drawn from seed 0"]
    assert say(tmp_path, "initialize_from=runs/mae")["begins"] == ["at sample 0, with weights of runs/mae"]
    resumed = ResumePoint(tmp_path / "run/checkpoints/ep1-ba20", samples=320)
    assert say(tmp_path, resume_from=resumed)["begins"] == ["goes on from ep1-ba20, at sample 320"]


def test_how_it_is_made_fast(tmp_path: Path) -> None:
    kept = say(tmp_path, "speed.sharding.reshard_after_forward=false")
    assert kept["sharding"][0].endswith("; blocks stay gathered for the backward pass")
    told = say(tmp_path, "speed.compile=true", "speed.activation_checkpointing=2", "loggers.progress_bar.every=5")
    assert told["blocks"] == ["compiled; activations computed again in the backward pass: of one block in 2"]
    assert told["writes"][0].endswith("; loggers: progress_bar")
    assert told["read by"] == ["this process itself"]
    several = say(tmp_path, "speed.workers=3", "speed.prefetch_factor=4")
    assert several["read by"] == [f"3 processes of each rank ({usable_cores()} cores), 4 batches ahead each"]
