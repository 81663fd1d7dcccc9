"""The exact figures of a head against logits of the whole model at once, and average precision by its definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml

from maws_composer.checkpoints.completeness import MARKER, write_marker
from maws_composer.config.build import build
from maws_composer.config.plugins import load_with_ours
from maws_composer.config.problems import ConfigError
from maws_composer.evaluation.encoder import load_encoder
from maws_composer.evaluation.features import Features
from maws_composer.evaluation.preflight import preflight
from maws_composer.evaluation.settings import load_evaluation
from maws_composer.models.classifier import ImageClassifier
from maws_composer.models.sizes import SIZES
from maws_composer.models.vit import VisionTransformer
from maws_composer.registry import lookup
from tests.labelled import long_tailed, write_labelled
from tests.runs import Runs

CLASSES, IMAGES = 23, 60


@pytest.fixture
def model() -> ImageClassifier:
    model = ImageClassifier(VisionTransformer(SIZES["vit_micro"], 24), CLASSES)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


@pytest.fixture
def evaluation(tmp_path: Path, model: ImageClassifier) -> Path:
    """The YAML of an evaluation of a checkpoint of stage wsp."""
    labels = long_tailed(IMAGES, CLASSES)
    train, test = (write_labelled(tmp_path / name, labels) for name in ("train", "test"))
    checkpoint = tmp_path / "wsp" / "checkpoints" / "ep0-ba10"
    tensors = {f"classifier.{name}": tensor for name, tensor in model.state_dict().items()}
    dcp.save({"state": {"model": tensors}}, checkpoint_id=checkpoint, no_dist=True)
    config = {"stage": "wsp", "model": {"size": "vit_micro"}, "data": {"train": {"remote": None, "local": str(train)}}}
    (checkpoint / "config.yaml").write_text(yaml.safe_dump(config))
    files = {path.name: path.stat().st_size for path in checkpoint.iterdir() if path.name != MARKER}
    write_marker(checkpoint, files, samples=160, world_size=1)
    content = {
        "weights": str(tmp_path / "wsp"),
        "data": {"train": {"local": str(train)}, "test": {"local": str(test)}},
        "evaluations": {"own_head": {"classes_at_once": 7}},
    }
    (tmp_path / "eval.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "eval.yaml"


def average_precision(scores: np.ndarray, relevant: np.ndarray) -> float:
    """Sum of (R_n - R_n-1) P_n over thresholds, as scikit-learn documents average_precision_score."""
    total, recall_before = 0.0, 0.0
    for threshold in np.unique(scores)[::-1]:
        found = relevant[scores >= threshold].sum()
        precision, recall = found / (scores >= threshold).sum(), found / relevant.sum()
        total, recall_before = total + (recall - recall_before) * precision, recall
    return total


@torch.no_grad()
def test_figures_are_those_of_all_logits_at_once(evaluation: Path, model: ImageClassifier) -> None:
    loaded = load_evaluation(evaluation)
    preflight(loaded)
    own_head = build(lookup("evaluation", "own_head"), loaded.run.evaluations["own_head"], loaded.run)
    images = torch.randn(IMAGES, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    rng = np.random.default_rng(0)
    chosen = [rng.choice(CLASSES - 2, rng.integers(1, 4), replace=False).tolist() for _ in range(IMAGES)]
    labels = torch.tensor([row + [-1] * (3 - len(row)) for row in chosen])
    test = Features(load_encoder(loaded.run.weights)(images), labels)

    figures = own_head(test, test).figures
    logits = model(images).numpy()
    relevant = np.array([[c in row for c in range(CLASSES)] for row in chosen])
    present = np.flatnonzero(relevant.any(0))
    expected = np.mean([average_precision(logits[:, c], relevant[:, c]) for c in present])
    assert figures["exact_map"] == pytest.approx(expected, abs=1e-6) and figures["classes"] == len(present)
    order = np.argsort(-logits, 1)
    for k in (1, 5):
        hits = [bool(set(order[i, :k]) & set(row)) for i, row in enumerate(chosen)]
        assert figures[f"precision@{k}"] == pytest.approx(np.mean(hits))


def problems_of(config: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        preflight(load_evaluation(config, overrides))
    return [f"{problem.path}: {problem.message}" for problem in caught.value.problems]


def test_a_head_that_is_not_there_or_of_other_classes_is_told_before_anything_is_computed(
    evaluation: Path, model: ImageClassifier, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "wsp" / "checkpoints" / "ep0-ba10"
    assert problems_of(evaluation, "feature=mean_patch_token") == [
        f"feature: is mean_patch_token; the head of {checkpoint} needs class_token"
    ]
    torch.save(model.encoder.state_dict(), tmp_path / "encoder.pt")
    assert problems_of(evaluation, f"weights={tmp_path / 'encoder.pt'}") == [
        f"evaluations.own_head: {tmp_path}/encoder.pt has no head, a run of stage wsp has one; remove it"
    ]
    for each in ("train", "test"):
        write_labelled(tmp_path / f"few-{each}", long_tailed(IMAGES, 9))
    few = [f"data.{each}.local={tmp_path}/few-{each}" for each in ("train", "test")]
    assert problems_of(evaluation, *few) == [
        f"data.test.local: {tmp_path}/few-test/classes.json has 9 classes, the head of {checkpoint} 23; "
        "label it with the classes of the training set, or remove evaluations.own_head"
    ]
    path = tmp_path / "train" / "classes.json"
    path.write_text(path.read_text().replace('"class 3"', '"another"'))
    assert problems_of(evaluation, f"data.train.local={tmp_path / 'test'}") == [
        f"data.test.local: {tmp_path}/test/classes.json has other classes than the training set of {checkpoint}; "
        "label it with the same classes, or remove evaluations.own_head"
    ]


def test_training_has_no_saved_head_to_evaluate(tmp_path: Path, images: Path) -> None:
    run = load_with_ours(Runs(tmp_path, images).recipe, [f"save_folder={tmp_path}/run"]).run
    with pytest.raises(ConfigError, match=r"own_head: needs saved weights, which evaluate\.py has"):
        build(lookup("evaluation", "own_head"), None, run)
