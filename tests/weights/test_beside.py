"""What a checkpoint leaves out is the same at every start: a locked image tower, or that of embeddings; a tokenizer."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from maws_composer.checkpoints.resume import ResumePoint
from maws_composer.checkpoints.run_folder import RunFolder
from maws_composer.config.problems import ConfigError
from maws_composer.data.columns import DATASET_FILE, DatasetFile
from maws_composer.data.settings import TrainData
from maws_composer.models.text_tower import TextSettings
from maws_composer.parallel.leave import leave_process_group
from maws_composer.registry import load_plugins
from maws_composer.weights.beside import keep_beside
from maws_composer.weights.fingerprint import fingerprint
from tests.text_towers import CAPTIONS, train_tokenizer, write_text_tower

ENCODER = {"norm.bias": torch.arange(4.0)}
KNOWN = fingerprint(ENCODER, ENCODER.__getitem__)


@pytest.fixture(autouse=True)
def alone():
    """A process group of one."""
    load_plugins(["maws_composer.stages"])
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    leave_process_group()


def start(
    folder: Path, resume: bool = False, embeddings: str | None = None, locked: bool = True, **model: Any
) -> dict | None:
    """Begin a run whose tower is ENCODER, or that reads embeddings; what stands in its encoder.json."""
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    (data / DATASET_FILE).write_text(DatasetFile("embed", "1", {}, {}, "", {}, encoder=embeddings).to_json())
    stage = nn.Module()
    stage.encoder_prefix = "clip.encoder."
    stage.columns = ("caption", "image_embedding") if embeddings else ("caption",)
    stage.clip = nn.Module()
    stage.clip.encoder = nn.Module()
    stage.clip.encoder.norm = nn.LayerNorm(4, elementwise_affine=True)
    stage.clip.encoder.norm.weight, stage.clip.encoder.norm.bias = None, nn.Parameter(ENCODER["norm.bias"])
    run = SimpleNamespace(
        stage="lit",
        model={"lock_image_tower": locked, "image_embeddings": embeddings is not None, **model},
        initialize_from="runs/wsp",
        data=SimpleNamespace(train=TrainData(local=str(data))),
    )
    checkpoint = ResumePoint(folder / "ep0-ba10", samples=160) if resume else None
    keep_beside(stage, run, RunFolder(str(folder), folder), checkpoint)
    file = folder / "encoder.json"
    return json.loads(file.read_text()) if file.exists() else None


def save(folder: Path) -> None:
    (folder / "ep0-ba10").mkdir()
    for file in folder.glob("*.json"):
        file.rename(folder / "ep0-ba10" / file.name)


def test_embeddings_of_the_same_tower_are_as_good_as_the_tower(tmp_path: Path) -> None:
    for name, first, then in (("a", None, KNOWN), ("b", KNOWN, None)):
        assert start(tmp_path / name, embeddings=first) == {"source": "runs/wsp", "fingerprint": KNOWN}
        save(tmp_path / name)
        assert start(tmp_path / name, resume=True, embeddings=then) is not None


def test_embeddings_computed_anew_by_another_tower_are_refused(tmp_path: Path) -> None:
    start(tmp_path, embeddings="b" * 64)
    save(tmp_path)
    with pytest.raises(ConfigError, match=r"initialize_from.*has another encoder \(cccccccccccc\) than this run"):
        start(tmp_path, resume=True, embeddings="c" * 64)


@pytest.mark.parametrize(("was", "now"), [(True, False), (False, True)])
def test_a_tower_is_not_locked_or_unlocked_on_the_way(tmp_path: Path, was: bool, now: bool) -> None:
    assert (start(tmp_path, locked=was) is not None) == was
    save(tmp_path)
    with pytest.raises(ConfigError, match=f"lock_image_tower.*set it back to {str(was).lower()}"):
        start(tmp_path, resume=True, locked=now)


def test_what_a_start_without_a_checkpoint_left_is_forgotten(tmp_path: Path) -> None:
    assert start(tmp_path) is not None
    assert start(tmp_path, locked=False) is None


def test_a_tokenizer_trained_anew_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    text = TextSettings(name=str(write_text_tower(tmp_path / "text")), context_length=20)
    start(tmp_path, text=text)
    save(tmp_path)
    start(tmp_path, resume=True, text=text)
    train_tokenizer(["other", "words", *CAPTIONS]).save_pretrained(text.name)
    with pytest.raises(ConfigError, match=r"model\.text\.name.*text has another tokenizer than .*text had"):
        start(tmp_path, resume=True, text=text)


def test_a_text_tower_that_computes_otherwise_is_refused_whatever_its_weights(tmp_path: Path) -> None:
    text = TextSettings(name=str(write_text_tower(tmp_path / "text", heads=2)), context_length=20)
    start(tmp_path, text=text)
    save(tmp_path)
    moved = shutil.copytree(text.name, tmp_path / "moved")
    start(tmp_path, resume=True, text=replace(text, name=str(moved), dropout=0.1))
    file = tmp_path / "text" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_attention_heads": 4}))
    with pytest.raises(ConfigError, match=r"another configuration than .*: num_attention_heads was 2, is 4"):
        start(tmp_path, resume=True, text=text)
