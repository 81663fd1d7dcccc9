"""LiT on embeddings computed once learns as LiT on the images does, and only from those of its own image tower."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from numpy.testing import assert_allclose

from maws_composer.cli import main
from maws_composer.data.settings import TrainData
from maws_composer.models.sizes import SIZES
from maws_composer.weights.embedded import check_embeddings
from tests.captioned import captions, write_captioned
from tests.processes import ROOT
from tests.runs import Finished, Runs
from tests.samples import samples_of
from tests.test_training import RECORD_IDS
from tests.text_towers import write_text_tower
from tests.weights.saved import autoencoder, save_run

GLOBAL_BATCH, STEPS, IMAGES = 16, 14, 96


@pytest.fixture(scope="module")
def lit(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Runs on images without augmentation, and beside them `embeddings` of the same images."""
    folder = tmp_path_factory.mktemp("lit")
    images = write_captioned(folder / "images", IMAGES)
    save_run(folder / "mae", autoencoder(SIZES["vit_micro"]), "vit_micro")
    command = [sys.executable, "-m", "maws_composer.cli", "embed", "mae", "images", "embeddings", "--workers", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=folder, env=environment, check=True, timeout=200)
    text = write_text_tower(folder / "text", captions(IMAGES))
    recipe = {
        "stage": "lit",
        "model": {
            "size": "vit_micro",
            "image_size": 24,
            "text": {"name": str(text), "context_length": 12},
            "embed_dim": 16,
        },
        "initialize_from": str(folder / "mae"),
        "data": {
            "train": {
                "local": str(images),
                "num_canonical_nodes": 4,
                "shuffle_block_size": 32,
                "central_crop": True,
            },
            "eval": {"local": str(images)},
        },
        "global_train_batch_size": GLOBAL_BATCH,
        "max_duration": f"{STEPS * GLOBAL_BATCH}sp",
        "optimizer": {"base_lr": 0.03},
        "eval_interval": "7ba",
        "speed": {"workers": 0, "scratch_folder": str(folder / "scratch"), "device_eval_batch_size": 7},
    }
    runs = Runs(folder, images)
    runs.recipe.write_text(yaml.safe_dump(recipe))
    return runs


def on_embeddings(lit: Runs) -> tuple[str, ...]:
    folder = lit.folder / "embeddings"
    return ("model.image_embeddings=true", f"data.train.local={folder}", f"data.eval.local={folder}")


@pytest.fixture(scope="module")
def other(lit: Runs) -> Path:
    """A run with another encoder."""
    model = autoencoder(SIZES["vit_micro"])
    with torch.no_grad():
        model.encoder.norm.bias[0] += 1
    save_run(lit.folder / "other", model, "vit_micro")
    return lit.folder / "other"


@pytest.fixture(scope="module")
def from_embeddings(lit: Runs) -> Finished:
    # Microbatches, too, so that gradients are cached: nothing of it may ask for images.
    recorded = (*RECORD_IDS, f"callbacks.record_ids.folder={lit.folder}/ids-e")
    finished = lit("from_embeddings", *on_embeddings(lit), *recorded, "speed.device_train_microbatch_size=5")
    assert finished.code == 0, finished.output
    return finished


def test_losses_and_samples_are_those_of_the_images_without_augmentation(lit: Runs, from_embeddings: Finished) -> None:
    images = lit("from_images", *RECORD_IDS, f"callbacks.record_ids.folder={lit.folder}/ids-i")
    assert images.code == 0, images.output
    assert len(images.losses) == STEPS and images.losses[-1] < images.losses[0]
    assert_allclose(from_embeddings.losses, images.losses, rtol=1e-3)  # what fp16 leaves of an embedding
    evaluated = [[step["metrics/eval/loss"] for step in each.steps if "metrics/eval/loss" in step] for each in
                 (images, from_embeddings)]  # fmt: skip
    assert len(evaluated[0]) == 2
    assert_allclose(evaluated[1], evaluated[0], rtol=1e-3)
    assert samples_of(lit.folder / "ids-i") == samples_of(lit.folder / "ids-e")


@pytest.mark.slow
def test_embeddings_of_another_encoder_are_refused_before_the_run(lit: Runs, other: Path) -> None:
    refused = lit("refused", *on_embeddings(lit), f"initialize_from={other}")
    assert refused.code == 2 and "has embeddings of another encoder" in " ".join(refused.output.split())
    assert not (refused.folder / "metrics.jsonl").exists()


def test_what_was_trained_on_embeddings_belongs_to_their_tower_from_then_on(
    lit: Runs, from_embeddings: Finished, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(from_embeddings.folder)
    assert main(["export", run, "--to", "maws", str(tmp_path / "other.pt"), "--image-tower", str(other)]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"the image tower at {other} is not the one that {run}/checkpoints/ep2-ba14 was trained with" in told
    assert main(["export", run, "--to", "maws", str(tmp_path / "own.pt")]) == 0


def problems_of(lit: Runs, tower: Path, size: str) -> dict[str, str]:
    train = TrainData(local=str(lit.folder / "embeddings"))
    model = {"size": size, "image_size": 24}
    run = SimpleNamespace(model=model, initialize_from=str(tower), data=SimpleNamespace(train=train, eval=None))
    return {problem.path: problem.message for problem in check_embeddings(run, ["image_embedding"])}


def test_embeddings_of_another_encoder_are_refused(lit: Runs, other: Path) -> None:
    assert problems_of(lit, lit.folder / "mae", "vit_micro") == {}
    told = problems_of(lit, other, "vit_micro")["data.train.local"]
    assert "has embeddings of another encoder: of mae/checkpoints/ep0-ba10 (" in told
    assert f"and not of {other}/checkpoints/ep0-ba10 (" in told


def test_embeddings_that_do_not_fit_the_model_are_refused(lit: Runs) -> None:
    told = problems_of(lit, lit.folder / "mae", "vit_b16")
    assert told["model.size"].endswith("mae/checkpoints/ep0-ba10 is vit_micro")
    width = SIZES["vit_micro"].width
    assert told["data.train.local"].endswith(f"has embeddings {width} wide, model.size has a width of 768")
