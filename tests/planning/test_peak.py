"""The planner's memory against the peak of a step through which shapes go: each stage, precision and split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from maws_composer.config.plugins import load_with_ours
from maws_composer.config.run import Run
from maws_composer.planning.dry_run import dry_run
from maws_composer.planning.plan import memory_of, workload_of
from tests.processes import ROOT
from tests.text_towers import write_text_tower

SMALL = {
    "mae": ["model.size=vit_micro", "model.image_size=96", "model.decoder={width: 64, depth: 3, heads: 4}"],
    "wsp": ["model.size=vit_micro", "model.image_size=96", "model.num_classes=300"],
    "lit": ["model.size=vit_micro", "model.image_size=96", "model.embed_dim=64", "model.text.context_length=40"],
}
NONE, ALL, SOME = (f"speed.activation_checkpointing={which}" for which in ("none", "all", "2"))
slow = pytest.mark.slow


def small_run(stage: str, folder: Path, given: Sequence[str]) -> Run:
    tower = [f"model.text.name={write_text_tower(folder, width=96, depth=3, heads=3, rows=4_000, positions=60)}"]
    more = [*tower, "initialize_from=/encoder"] if stage == "lit" else []
    return load_with_ours(
        ROOT / "yamls" / f"{stage}_vitb.yaml", ["data.train.remote=s3://b/x", *SMALL[stage], *more, *given]
    ).run


def off(run: Run, gpus: int, microbatch: int) -> float:
    """By what share the planner is off."""
    return memory_of(run, workload_of(run), gpus, microbatch).tensors / dry_run(run, gpus, microbatch).peak - 1


@pytest.mark.parametrize("stage", SMALL)
@pytest.mark.parametrize(
    ("gpus", "microbatch", "given"),
    [
        (8, 64, [NONE, "precision=amp_bf16"]),
        pytest.param(1, 4, [ALL, "precision=fp32"], marks=slow),
        *(
            pytest.param(gpus, microbatch, [checkpointing, f"precision={precision}"], marks=slow)
            for gpus in (1, 16)
            for microbatch in (2, 128)
            for checkpointing in (NONE, ALL, SOME)
            for precision in ("fp32", "amp_bf16")
        ),
        pytest.param(8, 16, [ALL, "model.qk_norm=true", "precision=fp32"], marks=slow),
    ],
)
def test_a_small_step_needs_what_was_planned(
    tmp_path: Path, stage: str, gpus: int, microbatch: int, given: list[str]
) -> None:
    batch = [f"global_train_batch_size={gpus * microbatch}"]
    assert abs(off(small_run(stage, tmp_path, [*batch, *given]), gpus, microbatch)) < 0.1


@slow
@pytest.mark.parametrize("stage", SMALL)
def test_a_later_pass_finds_gradients_of_earlier_ones(tmp_path: Path, stage: str) -> None:
    run = small_run(stage, tmp_path, ["global_train_batch_size=64", NONE])
    assert abs(off(run, 2, 8)) < 0.1


@slow
@pytest.mark.parametrize("lock", ["true", "false"])
def test_a_trained_image_tower_is_planned_for(tmp_path: Path, lock: str) -> None:
    run = small_run("lit", tmp_path, [f"model.lock_image_tower={lock}", "global_train_batch_size=128"])
    assert abs(off(run, 8, 16)) < 0.1


@slow
@pytest.mark.parametrize(
    ("name", "gpus", "microbatch", "given"),
    [
        ("mae_vitl", 8, 128, [NONE]),
        ("mae_vitl", 8, 512, [ALL]),
        ("mae_vit2b", 64, 64, [NONE]),
        ("mae_vit6.5b", 64, 16, [ALL]),
        ("wsp_vitl", 8, 64, [ALL]),
        ("wsp_vith", 16, 32, [NONE]),
        ("lit_vitb", 8, 64, [NONE]),
        ("lit_vitl", 64, 128, [ALL]),
    ],
)
def test_a_recipe_needs_what_was_planned(name: str, gpus: int, microbatch: int, given: list[str]) -> None:
    source = ["data.train.remote=s3://b/x", *(["initialize_from=/encoder"] if name.startswith("lit") else [])]
    run = load_with_ours(ROOT / "yamls" / f"{name}.yaml", [*source, *given]).run
    assert abs(off(run, gpus, microbatch)) < 0.1


def test_a_gpu_in_the_machine_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = small_run("mae", tmp_path, ["global_train_batch_size=16", "precision=fp32"])
    without = dry_run(run, 8, 2)
    monkeypatch.setattr("maws_composer.stages.build.torch_device", lambda: torch.device("cuda", 0))
    assert dry_run(run, 8, 2) == without
