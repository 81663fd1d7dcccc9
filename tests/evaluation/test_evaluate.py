"""`evaluate.py` on a run of a miniature MAE."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml
from numpy.testing import assert_allclose
from safetensors.torch import load_file
from streaming import LocalDataset

from maws_composer.checkpoints.weights import SavedModel
from maws_composer.config.problems import ConfigError
from maws_composer.data.decode import decode
from maws_composer.data.transforms import resize_and_crop
from maws_composer.evaluation.encoder import load_encoder
from maws_composer.evaluation.preflight import preflight
from maws_composer.evaluation.settings import load_evaluation
from maws_composer.evaluation.suite import build_evaluations
from maws_composer.models.sizes import SIZES
from maws_composer.outages import StorageError
from maws_composer.stages.pixels import normalize
from tests.evaluation.labelled import write_labelled
from tests.processes import ROOT, free_port
from tests.runs import Runs, kill_session, ranks, wait_until
from tests.s3_server import S3Server, rclone
from tests.weights.saved import classifier, save_wsp_run

TRAIN, TEST = 90, 43  # neither is a multiple of a batch of 8, on one process or two


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """A run of ten steps, labelled images, and the YAML of an evaluation."""
    folder = tmp_path_factory.mktemp("evaluation")
    trained = Runs(folder, images)("mae", "max_duration=160sp")
    assert trained.code == 0, trained.output
    write_labelled(folder / "train", TRAIN)
    write_labelled(folder / "test", TEST, seed=1)
    evaluation = {
        "weights": str(folder / "mae"),
        "data": {name: {"local": str(folder / name)} for name in ("train", "test")},
        "feature": "mean_patch_token",
        "evaluations": {
            "knn": {"k": 5},
            "linear_probe": {"epochs": 20, "warmup_epochs": 2, "batch_size": 32, "learning_rates": [0.1, 1.0]},
            "linear_probe_lbfgs": None,
            "exact_map": None,
        },
        "speed": {"device_eval_batch_size": 8, "workers": 0, "scratch_folder": str(folder / "scratch")},
    }
    (folder / "eval.yaml").write_text(yaml.safe_dump(evaluation, sort_keys=False))
    return folder


def evaluate(folder: Path, *overrides: str, processes: int | None = None) -> subprocess.CompletedProcess[str]:
    command, environment = command_of(folder, *overrides, processes=processes)
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)


def command_of(folder: Path, *overrides: str, processes: int | None = None) -> tuple[list[str], dict[str, str]]:
    """What starts evaluate.py, and its environment."""
    launcher = [sys.executable]
    if processes:
        launcher = [str(Path(sys.executable).parent / "composer"), "-n", str(processes), "--master_port"]
        launcher.append(str(free_port()))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return [*launcher, "evaluate.py", str(folder / "eval.yaml"), *overrides], environment


@pytest.fixture(scope="module")
def alone(folder: Path) -> subprocess.CompletedProcess[str]:
    finished = evaluate(folder, f"save_folder={folder}/alone")
    assert finished.returncode == 0, finished.stderr
    return finished


def features(folder: Path, name: str) -> dict:
    (file,) = (folder / "features").glob(f"{name}-*.safetensors")
    return load_file(file)


def test_figures_are_in_a_table_in_json_and_in_a_picture(folder: Path, alone: subprocess.CompletedProcess) -> None:
    results = json.loads((folder / "alone" / "results.json").read_text())
    figures = {name: found["figures"] for name, found in results["evaluations"].items()}
    assert list(figures) == ["knn", "linear_probe", "linear_probe_lbfgs", "exact_map"]
    assert figures["knn"]["top1"] > 0.9  # colors are easy
    assert [tried["learning_rate"] for tried in results["evaluations"]["linear_probe"]["learning_rates"]] == [0.1, 1.0]
    assert results["data"]["test"] == {"source": f"{folder}/test", "images": TEST}
    assert results["checkpoint"].endswith("checkpoints/ep0-ba10")
    assert f"knn                 top1           {figures['knn']['top1']:>8.4f}" in alone.stdout
    assert (folder / "alone" / "results.png").stat().st_size > 1000


@pytest.mark.slow
def test_two_processes_extract_the_same_features_every_image_once(folder: Path, alone) -> None:
    together = evaluate(folder, f"save_folder={folder}/together", processes=2)
    assert together.returncode == 0, together.stdout + together.stderr
    for name, images in (("train", TRAIN), ("test", TEST)):
        one, two = features(folder / "alone", name), features(folder / "together", name)
        assert len(one["values"]) == images
        assert_allclose(two["values"], one["values"], atol=1e-6)
        assert two["labels"].equal(one["labels"])


@pytest.mark.slow
def test_features_are_used_again_for_the_same_weights_and_data(folder: Path, alone) -> None:
    before = (folder / "alone" / "results.json").read_text()
    again = evaluate(folder, f"save_folder={folder}/alone")
    assert again.stderr.count("are those of an earlier evaluation") == 2
    assert (folder / "alone" / "results.json").read_text() == before


def test_an_encoder_is_that_of_the_run_at_its_size_and_at_another(folder: Path) -> None:
    encoder = load_encoder(str(folder / "mae"))
    model, prefix = SavedModel(folder / "mae" / "checkpoints" / "ep0-ba10"), "mae.encoder."
    saved = {name.removeprefix(prefix): model.read(name) for name in model.shapes if name.startswith(prefix)}
    assert all(torch.equal(tensor, saved[name]) for name, tensor in encoder.state_dict().items())
    larger = load_encoder(str(folder / "mae"), image_size=48)
    assert larger(torch.zeros(2, 3, 48, 48)).shape == encoder(torch.zeros(2, 3, 24, 24)).shape
    assert torch.equal(larger.pos_embed[:, 0], encoder.pos_embed[:, 0])


@torch.no_grad()
def test_a_run_of_stage_wsp_is_evaluated_by_the_class_token_that_its_head_reads(folder: Path, tmp_path: Path) -> None:
    tagger = classifier(SIZES["vit_micro"], num_classes=4)
    save_wsp_run(tmp_path / "wsp", tagger, "vit_micro")
    overrides = (f"weights={tmp_path}/wsp", "feature=class_token", f"save_folder={tmp_path}/evaluated")
    finished = evaluate(folder, *overrides)
    assert finished.returncode == 0, finished.stderr
    samples = LocalDataset(str(folder / "test"))
    pixels = [resize_and_crop(decode(samples[i]["image"], 10_000), 24) for i in range(TEST)]
    expected = tagger.encoder.forward_features(normalize(torch.stack(pixels)))[:, 0]
    assert_allclose(features(tmp_path / "evaluated", "test")["values"], expected, atol=1e-5)


SLEEPS = """
import time
from pathlib import Path

from maws_composer.registry import register_evaluation

@register_evaluation("sleep")
class Sleep:
    def __init__(self, began: str) -> None:
        self.began = Path(began)

    def __call__(self, train, test):
        self.began.touch()
        time.sleep(600)
"""


@pytest.mark.slow
def test_a_rank_that_falls_silent_ends_the_evaluation_on_all(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "sleep.py").write_text(SLEEPS)
    began, log = tmp_path / "began", tmp_path / "log"
    command, environment = command_of(
        folder, f"save_folder={tmp_path}/evaluated", f"code_paths=[{tmp_path}/sleep.py]", "watchdog.silence=6",
        "watchdog.limit=2", f"evaluations.sleep.began={began}", processes=2,
    )  # fmt: skip
    with log.open("w") as output:
        launcher = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            wait_until(began.exists, launcher, timeout=120)
            time.sleep(4)  # an evaluation may take longer than `limit`
            assert launcher.poll() is None
            os.kill(ranks(launcher.pid)[1], signal.SIGSTOP)
            assert launcher.wait(60) != 0
        finally:
            kill_session(launcher.pid)
    assert "rank 1 (process " in log.read_text() and "has not been heard of for 6 s" in log.read_text()


@pytest.mark.skipif(rclone() is None, reason="rclone, of the extra `dev`, is not installed")
def test_storage_that_is_away_is_waited_for(folder: Path, tmp_path: Path, monkeypatch, caplog) -> None:
    with S3Server(tmp_path / "s3") as server:
        for name, value in {**server.environment, "AWS_MAX_ATTEMPTS": "1"}.items():
            monkeypatch.setenv(name, value)
        shutil.copytree(folder / "mae", server.bucket("bucket") / "mae")
        server.stop()
        remote = ("weights=s3://bucket/mae", f"save_folder={tmp_path}/evaluated")
        with pytest.raises(StorageError, match=r"weights: .*s3://bucket/mae"):
            preflight(load_evaluation(folder / "eval.yaml", [*remote, "storage_patience=0.1"]))
        back = threading.Timer(1.5, server.start)
        back.start()
        preflight(load_evaluation(folder / "eval.yaml", remote))
        back.join()
    assert "looking at the weights and the data: weights: s3://bucket/mae" in caplog.text
    assert "trying again" in caplog.text


def problems_of(config: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        preflight(load_evaluation(config, overrides))
    return [f"{problem.path}: {problem.message} ({problem.where})" for problem in caught.value.problems]


def test_mistakes_are_told_at_once(folder: Path) -> None:
    *told, unknown = problems_of(folder / "eval.yaml", "evaluations.knnn={}", "evaluations.knn.k=0", "weigths=x")
    assert told == [
        "weigths: unknown key; nearest is weights (command line)",
        "evaluations.knn.k: 0 is not above 0 (command line)",
    ]
    assert unknown.startswith("evaluations.knnn: unknown evaluation 'knnn'; nearest is knn; looked in maws_composer, ")


def test_weights_are_required(folder: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((folder / "eval.yaml").read_text())
    del config["weights"]
    (tmp_path / "eval.yaml").write_text(yaml.safe_dump(config))
    assert problems_of(tmp_path / "eval.yaml") == [f"weights: missing; required ({tmp_path}/eval.yaml)"]


def test_weights_and_labels_that_are_not_there_are_told_together(folder: Path, images: Path) -> None:
    found = problems_of(folder / "eval.yaml", f"weights={folder}/nowhere", f"data.train.local={images}")
    assert found == [
        f"weights: there is no run, checkpoint or weights at {folder}/nowhere (command line)",
        f"data.train.columns.labels: {images} has no column labels; it has id, image (default)",
    ]


def test_one_process_says_it_all(folder: Path) -> None:
    refused = evaluate(folder, "evaluations.knn.k=0", f"save_folder={folder}/no")
    assert refused.returncode == 2
    assert "evaluations.knn.k  0 is not above 0  (command line)" in refused.stderr
    assert not (folder / "no").exists()


@pytest.mark.parametrize(
    ("name", "evaluations"),
    [
        ("imagenet", {"knn", "linear_probe", "linear_probe_lbfgs", "zero_shot"}),
        ("food101", {"knn", "linear_probe", "linear_probe_lbfgs", "zero_shot"}),
        ("quickstart", {"knn", "linear_probe_lbfgs", "exact_map"}),
        ("quickstart_names", {"retrieval"}),
        ("quickstart_kinds", {"zero_shot"}),
    ],
)
def test_what_we_ship_resolves(name: str, evaluations: set[str]) -> None:
    local = name.startswith("quickstart")
    given = [] if local else [f"data.{part}.remote=s3://bucket/{part}" for part in ("train", "test")]
    run = load_evaluation(ROOT / "yamls" / "eval" / f"{name}.yaml", ["weights=runs/mae", *given]).run
    assert run.save_folder == f"evaluations/{name}-mae"
    assert evaluations == set(run.evaluations)
    assert build_evaluations(run).keys() == evaluations


def test_imagenet_on_this_machine_needs_no_word_of_remote_data() -> None:
    config = ROOT / "yamls" / "eval" / "imagenet.yaml"
    local = ["weights=runs/mae", "data.train.local=in1k/train", "data.test.local=in1k/val"]
    data = load_evaluation(config, local).run.data
    assert (data.train.local, data.train.remote, data.train.resize) == ("in1k/train", None, 256)
    assert problems_of(config, "weights=runs/mae") == [
        f"data.train: needs remote or local ({config}, line 18)",
        f"data.test: needs remote or local ({config}, line 20)",
    ]
