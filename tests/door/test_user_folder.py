"""A user's folder with one plugin of every kind: each is used for what it is for."""

from __future__ import annotations

import math
import pkgutil
from pathlib import Path

import composer.algorithms
import pytest
import torch
from numpy.testing import assert_allclose
from safetensors.torch import load_file
from streaming import LocalDataset

from maws_composer.cli import main
from maws_composer.config.build import build
from maws_composer.config.plugins import our_code_paths
from maws_composer.config.problems import ConfigError
from maws_composer.evaluation.features import Features
from maws_composer.registry import KINDS, load_plugins, lookup, names
from maws_composer.weights.sources import open_encoder
from streaming_conversion.cli import main as convert
from tests.runs import GLOBAL_BATCH, Finished, Runs, write_images
from tests.test_gradient_caching import make_batch, make_stage
from tests.text_towers import write_text_tower

USER = Path(__file__).parents[1] / "plugins" / "user"
ELASTIC = (
    f"code_paths=[{USER}]", "data.train.transform={name: my_square, size: 24}", "algorithms.my_centralized.share=0.5",
    "algorithms.gradient_clipping.clipping_threshold=0.05", "schedule={name: my_steps}",
)  # fmt: skip
DATASET = ("data.train.local=null", "data.train.dataset={name: my_images, count: 130}")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    return Runs(folder, write_images(folder / "images", count=128))


@pytest.fixture(scope="module")
def run(runs: Runs) -> Finished:
    """Four steps in which everything that training can name is the user's."""
    return runs(
        "mine", *ELASTIC, *DATASET, "stage=my_mae", "model.size=my_size", "optimizer={name: my_lion, base_lr: 0.01}",
        "data.eval.dataset={name: my_images, count: 19}", "eval_interval=4ba",
        "callbacks.my_counter.first=10", "callbacks.learning_rates={}",
        f"loggers.my_lines.file={runs.folder / 'lines'}",
        f"max_duration={4 * GLOBAL_BATCH}sp", "save_interval=4ba",
    )  # fmt: skip


@pytest.fixture(autouse=True)
def plugins() -> None:
    assert load_plugins([*our_code_paths(), USER]) == []


def test_the_folder_has_a_plugin_of_every_kind() -> None:
    assert [kind for kind in KINDS if not any(name.startswith("my_") for name in names(kind))] == []


def test_lit_is_trained_with_their_loss(tmp_path: Path) -> None:
    stage, batch = make_stage(write_text_tower(tmp_path), loss="my_margin"), make_batch()
    pairs = stage(batch)
    logits = (pairs.scale * pairs.image @ pairs.text.T).detach().numpy()
    hinges = []
    for rows in (logits, logits.T):
        for number, row in enumerate(rows):
            wrong = max(value for column, value in enumerate(row) if column != number)
            hinges.append(max(wrong - row[number] + 1, 0))
    loss = stage.loss(pairs, batch)
    assert loss.item() == pytest.approx(sum(hinges) / len(hinges), rel=1e-5) and loss.item() > 0
    loss.backward()
    assert stage.clip.text_projection.weight.grad.norm() > 0


def test_a_run_uses_them(run: Finished, runs: Runs) -> None:
    assert run.code == 0, run.output
    assert [step["mine/count"] for step in run.steps] == [11, 12, 13, 14]
    assert "mine/count" in (runs.folder / "lines").read_text().splitlines()
    assert "metrics/eval/loss" in run.steps[-1]
    assert "the dataset my_images (" in run.output and "evaluated on: the dataset my_images, every 4ba" in run.output
    peak = 0.01 * GLOBAL_BATCH / 256
    assert [step["lr/decayed"] for step in run.steps] == pytest.approx([peak, peak, peak / 2, peak / 2])


def test_an_exported_layout_is_imported_again(run: Finished, tmp_path: Path) -> None:
    out = tmp_path / "exported"
    arguments = ["export", str(run.folder), "--to", "my_layout", str(out), "--code-path", str(USER)]
    assert main([*arguments, "--set", "prefix=mine/"]) == 0
    ours, theirs = open_encoder(str(run.folder)), open_encoder(str(out))
    assert set(load_file(out / "model.safetensors")) == {f"mine/{name}" for name in ours.shapes}
    assert all(torch.equal(ours.read(name), theirs.read(name)) for name in ours.shapes)


def test_an_exporter_names_its_wrong_arguments(run: Finished, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["export", str(run.folder), str(tmp_path / "out"), "--code-path", str(USER), "--to"]
    assert main([*arguments, "my_layout", "--set", "prefx=a"]) == 2
    assert "prefx  unknown key; nearest is prefix" in capsys.readouterr().err
    assert main([*arguments, "my_layot"]) == 2
    assert "unknown exporter 'my_layot'; nearest is my_layout" in capsys.readouterr().err


def test_a_reader_is_converted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["my_colors", str(tmp_path / "mds"), "--code-path", str(USER), "--processes", "1", "--set"]
    assert convert([*command, "count=5"]) == 0
    dataset = LocalDataset(local=str(tmp_path / "mds"))
    assert [dataset[number]["id"] for number in range(len(dataset))] == [f"color-{number}" for number in range(5)]
    assert convert([*command, "count=0"]) == 2
    assert "count  0 is not above 0" in capsys.readouterr().err


def test_an_evaluation_is_built(tmp_path: Path) -> None:
    features = Features(torch.tensor([[0.0, 2.0], [4.0, 6.0]]), torch.zeros(2, 1, dtype=torch.int64))
    assert build(lookup("evaluation", "my_spread"), {}, None)(features, features).figures["spread"] == pytest.approx(
        float(torch.tensor([0.0, 2.0, 4.0, 6.0]).std())
    )


def test_every_algorithm_of_composer_is_allowed_or_refused_with_a_reason() -> None:
    modules = {module.name for module in pkgutil.iter_modules(composer.algorithms.__path__)}
    for name in modules - {"utils", "warnings", "gradient_clipping"}:
        with pytest.raises(ConfigError, match=f"the algorithm '{name}' is refused: it"):
            lookup("algorithm", name)
    with pytest.raises(ConfigError, match="'value' hides infinite gradients"):
        build(lookup("algorithm", "gradient_clipping"), {"clipping_threshold": 1.0, "clipping_type": "value"}, None)


@pytest.mark.slow
def test_stage_wsp_is_trained_and_evaluated_on_the_labels_of_their_dataset(runs: Runs) -> None:
    model = ("model={}", "model.size=vit_micro", "model.image_size=24", "model.num_classes=3")
    tagged = runs(
        "tagged", f"code_paths=[{USER}]", *DATASET, "data.eval.dataset={name: my_images, count: 19}",
        "eval_interval=3ba", "stage=wsp", *model, f"max_duration={3 * GLOBAL_BATCH}sp", "save_interval=3ba",
    )  # fmt: skip
    assert tagged.code == 0, tagged.output
    assert tagged.losses[0] == pytest.approx(math.log(3), rel=1e-6)  # all classes are equally likely
    assert 0 < tagged.steps[-1]["metrics/eval/loss"] < 2 * math.log(3)
    assert 0 <= tagged.steps[-1]["metrics/eval/precision@1"] <= 1


@pytest.mark.slow
def test_datasets_transforms_schedules_and_algorithms_keep_a_run_elastic(runs: Runs) -> None:
    options = (*ELASTIC, *DATASET, f"max_duration={20 * GLOBAL_BATCH}sp", "save_interval=5ba")
    whole = runs("whole", *options)
    runs("moved", *options, processes=2, kill_after_saving=10)
    moved = runs("moved", *options, "speed.workers=1")
    assert whole.code == moved.code == 0, whole.output + moved.output
    assert len(whole.losses) == 20
    assert_allclose(moved.losses, whole.losses, rtol=1e-5)
