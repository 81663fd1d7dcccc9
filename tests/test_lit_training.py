"""The project's promise on pairs of images and captions: see tests/test_training.py."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import pytest
import yaml
from safetensors.torch import save_file

from maws_composer.checkpoints.weights import SavedModel
from maws_composer.models.initialization import initialize
from maws_composer.models.sizes import SIZES
from maws_composer.models.vit import VisionTransformer
from tests.captioned import captions, write_captioned
from tests.resilience.test_loss_spikes import left_out, spoil
from tests.runs import Finished, Runs
from tests.samples import samples_of
from tests.test_training import RECORD_IDS, same_curve
from tests.text_towers import write_text_tower

GLOBAL_BATCH = 16
STEPS = 50
IMAGES = 192


def write_encoder(path: Path, seed: int) -> Path:
    encoder = VisionTransformer(SIZES["vit_micro"], 24)
    initialize(encoder, seed)
    save_file({name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def lit(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("lit")
    captioned = write_captioned(folder / "captioned", IMAGES)
    runs = Runs(folder, captioned)
    recipe = {
        "stage": "lit",
        "model": {
            "size": "vit_micro",
            "image_size": 24,
            "text": {"name": str(write_text_tower(folder / "text", captions(IMAGES))), "context_length": 16},
            "embed_dim": 16,
        },
        "initialize_from": str(write_encoder(folder / "encoder.safetensors", seed=1)),
        "data": {
            "train": {"local": str(captioned), "num_canonical_nodes": 4, "shuffle_block_size": 128},
            "eval": {"local": str(captioned)},
        },
        "global_train_batch_size": GLOBAL_BATCH,
        "max_duration": f"{STEPS * GLOBAL_BATCH}sp",
        "optimizer": {"base_lr": 0.06},
        "gradient_clip": 1.0,
        "save_interval": "10ba",
        "eval_interval": "25ba",
        "speed": {"workers": 0, "scratch_folder": str(folder / "scratch"), "device_eval_batch_size": 7},
    }
    runs.recipe.write_text(yaml.safe_dump(recipe))
    return runs


@pytest.fixture(scope="module")
def whole(lit: Runs) -> Finished:
    """One process that takes the batch whole, not interrupted: more than an epoch."""
    finished = lit("whole", *recording(lit, "whole"))
    assert finished.code == 0, finished.output
    assert len(finished.losses) == STEPS
    return finished


def recording(lit: Runs, name: str) -> tuple[str, ...]:
    return (*RECORD_IDS, f"callbacks.record_ids.folder={lit.folder / f'ids-{name}'}")


def test_it_learns_which_caption_belongs_to_which_picture(whole: Finished) -> None:
    assert "text tower from" in whole.output and "encoder from" in whole.output
    assert sum(whole.losses[-5:]) / 5 < 0.8 * math.log(GLOBAL_BATCH)
    first, last = (step for step in whole.steps if "metrics/eval/loss" in step)
    assert last["metrics/eval/loss"] < first["metrics/eval/loss"]
    for way in ("image_to_text", "text_to_image"):
        at_1, at_5 = (last[f"metrics/eval/{way}_recall@{k}"] for k in (1, 5))
        assert 1 / IMAGES < at_1 < at_5


def test_losing_half_of_the_processes_changes_neither_curve_nor_samples_nor_metrics(whole: Finished, lit: Runs) -> None:
    microbatches = "speed.device_train_microbatch_size=3"  # of 8 samples per process: the last one is smaller
    lit("cut", *recording(lit, "cut"), microbatches, "speed.sharding.shard=2", processes=2, kill_after=27)
    cut = lit("cut", *recording(lit, "cut"), "speed.device_train_microbatch_size=5", processes=1)
    same_curve(cut, whole)
    before, after = (samples_of(lit.folder / f"ids-{name}") for name in ("whole", "cut"))
    assert set(before) == set(range(STEPS))
    assert all(Counter(before[step]) == Counter(after[step]) for step in before)
    for step, expected in zip(cut.steps, whole.steps, strict=True):
        metrics = {name: value for name, value in expected.items() if name.startswith("metrics/eval/")}
        assert {name: step[name] for name in metrics} == pytest.approx(metrics, rel=1e-4, abs=2 / IMAGES)


def test_a_checkpoint_names_the_locked_tower_and_does_not_repeat_it(whole: Finished, lit: Runs) -> None:
    checkpoint = whole.folder / "checkpoints" / "ep4-ba50"
    saved = SavedModel(checkpoint)
    assert {name.split(".")[1] for name in saved.shapes} == {
        "text", "image_projection", "text_projection", "logit_scale",
    }  # fmt: skip
    about = json.loads((checkpoint / "encoder.json").read_text())
    assert about["source"] == str(lit.folder / "encoder.safetensors") and len(about["fingerprint"]) == 64
    assert saved.read("clip.logit_scale").item() != pytest.approx(math.log(1 / 0.07))


@pytest.mark.slow
def test_another_tower_is_refused_at_resume(whole: Finished, lit: Runs) -> None:
    other = write_encoder(lit.folder / "other.safetensors", seed=2)
    going_on = ("allow_changed_config=true", "max_duration=960sp")
    refused = lit("whole", f"initialize_from={other}", *going_on)
    assert refused.code == 2
    assert "other.safetensors has another encoder" in refused.output and "came from" in refused.output


@pytest.mark.slow
def test_what_a_run_begins_with_is_asked_for_before_it_begins(lit: Runs) -> None:
    misfit = write_text_tower(lit.folder / "misfit", captions(IMAGES), rows=20, pad_token_id=0)
    refused = lit("misfit", f"model.text.name={misfit}", "initialize_from=null")
    assert refused.code == 2
    assert "a tower that knows 20" in refused.output and "fills up with token 1" in refused.output
    assert "a locked image tower stays what it begins as" in refused.output


@pytest.mark.slow
def test_a_step_that_is_not_finite_is_left_out_with_cached_gradients_too(lit: Runs) -> None:
    short = ("max_duration=128sp", "eval_interval=100ba", "speed.device_train_microbatch_size=3")
    told = lit("told", *spoil("update", [5]), *short, processes=2)
    skipped = lit("skipped", *spoil("gradient", [5]), *short, "loss_spikes.action=skip", processes=2)
    assert skipped.code == 0, skipped.output
    assert left_out(skipped) == [5]
    assert skipped.losses == told.losses
