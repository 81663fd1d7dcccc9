"""Every YAML that we ship resolves, says what FACTS say, and builds at full size."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from maws_composer.config.build import build
from maws_composer.config.durations import samples
from maws_composer.config.plugins import load_with_ours
from maws_composer.planning.forecast import Cluster, forecast
from maws_composer.planning.forecast_table import describe
from maws_composer.planning.gpus import GPUS
from maws_composer.planning.plan import memory_of, microbatch_size, workload_of
from maws_composer.registry import lookup
from tests.processes import ROOT
from tests.text_towers import write_text_tower

RECIPES = sorted(path for path in (ROOT / "yamls").rglob("*.yaml") if not {"recipes", "models", "eval"} & {*path.parts})
# all parameters of MAE encoder and decoder, counted by hand and on the meta device of another implementation
PARAMETERS = {
    "mae_vitb": 111_907_840,
    "mae_vitl": 329_541_888,
    "mae_vith": 657_074_508,
    "mae_vit2b": 1_917_374_028,
    "mae_vit6.5b": 6_475_383_884,
}
# FACTS 2.1: ViT with trained positions, and a head of 28,000 classes
WSP_PARAMETERS = {
    "wsp_vitb": 85_798_656 + 21_532_000,
    "wsp_vitl": 303_301_632 + 28_700_000,
    "wsp_vith": 630_764_800 + 35_868_000,
    "wsp_vit2b": 1_890_408_960 + 71_708_000,
    "wsp_vit6.5b": 6_447_632_384 + 114_716_000,
}
# FACTS 2.1 and 6.4: the image tower, locked; the text tower with one row of token types; two projections, the scale
BASE, LARGE = 277_452_288 + 768, 558_839_808 + 1024
LIT_PARAMETERS = {
    "lit_vitb": (85_798_656, BASE + (768 + 768) * 768 + 1),
    "lit_vitl": (303_301_632, LARGE + (1024 + 1024) * 1024 + 1),
    "lit_vith": (630_764_800, LARGE + (1280 + 1024) * 1024 + 1),
    "lit_vit2b": (1_890_408_960, LARGE + (2560 + 1024) * 2048 + 1),
    "lit_vit6.5b": (6_447_632_384, LARGE + (4096 + 1024) * 4096 + 1),
}
KNOWN = PARAMETERS | WSP_PARAMETERS | {name: sum(counts) for name, counts in LIT_PARAMETERS.items()}


def load(recipe: Path, *given: str):
    data = [] if "quickstart" in recipe.parts else ["data.train.remote=s3://bucket/images"]
    return load_with_ours(recipe, [*data, *given])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_builds_on_the_meta_device(recipe: Path, tmp_path: Path) -> None:
    tower = [f"model.text.name={write_text_tower(tmp_path)}"] if recipe.stem == "lit" else []  # quickstart's is local
    run = load(recipe, *tower).run
    with torch.device("meta"):
        stage = build(lookup("stage", run.stage), run.model, run)
    counted = sum(parameter.numel() for parameter in stage.parameters())
    assert counted == workload_of(run).parameters.total
    assert counted == KNOWN.get(recipe.stem, counted)
    trained = sum(parameter.numel() for parameter in stage.parameters() if parameter.requires_grad)
    assert trained == workload_of(run).parameters.trainable
    assert all(parameter.is_meta for parameter in stage.parameters())


def test_every_size_has_a_recipe() -> None:
    assert {recipe.stem for recipe in RECIPES} >= {*KNOWN}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_recipe_follows_the_mae_paper(name: str) -> None:
    """He et al. 2021, tables 8: what the MAWS paper says it copies."""
    run = load(ROOT / "yamls" / f"{name}.yaml").run
    assert run.model["mask_ratio"] == 0.75 and run.model["norm_pix_loss"] is True
    assert run.global_train_batch_size == 4096
    assert run.optimizer.base_lr * run.global_train_batch_size / 256 == pytest.approx(2.4e-3)
    assert run.optimizer.betas == (0.9, 0.95) and run.optimizer.weight_decay == 0.05
    assert run.data.train.crop_scale == (0.2, 1.0) and run.data.train.flip and run.gradient_clip is None
    assert samples(run.max_duration) == 5_000_000_000
    assert run.precision == ("fp32" if name == "mae_vit6.5b" else "amp_bf16")


@pytest.mark.parametrize("name", WSP_PARAMETERS)
def test_a_recipe_says_what_is_known_of_wsp(name: str) -> None:
    """FACTS 5: the paper's 28,000 classes and 5 B draws of 3 B images, and SWAG's values as recalled."""
    run = load(ROOT / "yamls" / f"{name}.yaml").run
    assert run.model["num_classes"] == 28_000 and run.model["fixed_positions"] is False
    assert run.global_train_batch_size == 8192
    assert run.optimizer.base_lr * run.global_train_batch_size / 256 == pytest.approx(4e-4)
    assert run.optimizer.betas == (0.9, 0.999) and run.optimizer.weight_decay == 0.1
    assert run.data.train.crop_scale == (0.08, 1.0) and run.data.train.flip
    assert run.data.train.resampling.epoch_size == samples(run.max_duration) == 5_000_000_000


@pytest.mark.parametrize("name", LIT_PARAMETERS)
def test_a_recipe_says_what_is_known_of_lit(name: str) -> None:
    """FACTS 6: the paper's locked tower, CLIP loss and 3 B pairs, the released code's context, and LiT's values."""
    run = load(ROOT / "yamls" / f"{name}.yaml").run
    text = run.model["text"]
    assert text.name == f"FacebookAI/xlm-roberta-{'base' if name == 'lit_vitb' else 'large'}"
    assert text.pretrained and text.context_length == 102 and text.dropout == 0
    assert run.model["lock_image_tower"] and run.model["loss"] == "softmax"
    assert run.model["embed_dim"] == {"lit_vitb": 768, "lit_vit2b": 2048, "lit_vit6.5b": 4096}.get(name, 1024)
    assert run.global_train_batch_size == 32_768 and run.gradient_clip == 1.0
    assert run.optimizer.base_lr * run.global_train_batch_size / 256 == pytest.approx(1e-3)
    assert run.data.train.central_crop
    assert samples(run.max_duration) == 3_000_000_000
    assert workload_of(run).parameters.trainable == LIT_PARAMETERS[name][1]
    embedded = load_with_ours(
        ROOT / "yamls" / f"{name}.yaml", ["data.train.remote=s3://bucket/embedded", "model.image_embeddings=true"]
    ).run
    assert workload_of(embedded).parameters.total == LIT_PARAMETERS[name][1]
    assert workload_of(embedded).training_flops < 0.7 * workload_of(run).training_flops


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("gpus", [64, 32, 8])
def test_a_recipe_fits_80_gb_on_what_is_left(name: str, gpus: int) -> None:
    run = load(ROOT / "yamls" / f"{name}.yaml").run
    microbatch = microbatch_size(run, workload_of(run), gpus, GPUS["h100"].memory)
    assert microbatch >= 16
    assert memory_of(run, workload_of(run), gpus, microbatch).total < GPUS["h100"].memory


@pytest.mark.parametrize("name", KNOWN)
def test_a_recipe_says_what_the_planner_says_of_memory(name: str) -> None:
    path = ROOT / "yamls" / f"{name}.yaml"
    run, planned = load(path).run, []
    for gpus in (64, 8):
        microbatch = microbatch_size(run, workload_of(run), gpus, GPUS["h100"].memory)
        planned += [microbatch, round(memory_of(run, workload_of(run), gpus, microbatch).total / 1e9)]
    told = re.search(r"by arithmetic (\d+) on 64 H100s \((\d+) GB of 80\), (\d+) on 8 \((\d+) GB\)", path.read_text())
    assert told is not None and [int(number) for number in told.groups()] == planned


def test_the_plan_says_what_a_run_takes() -> None:
    text = describe([forecast(load(ROOT / "yamls" / "mae_vit2b.yaml").run, Cluster(gpus=64))])
    assert "1,917,374,028" in text
    assert "3.92e+21" in text  # FACTS: 3.923e21 FLOPs for 5 B images
    assert "2,755 GPU-hours" in text or "2,754 GPU-hours" in text
    assert "8 replicas x 8 shards" in text
