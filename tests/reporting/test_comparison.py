"""`maws-composer report RUN RUN …`: several runs on one page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maws_composer.cli import main
from maws_composer.reporting.comparison import write_comparison
from tests.reporting.test_report import Page


def make_run(folder: Path, stage: str, precision: float, initialize_from: str = "") -> Path:
    folder.mkdir(parents=True)
    settings = {"run_name": folder.name, "stage": stage, "initialize_from": initialize_from or None}
    (folder / "config.yaml").write_text(json.dumps({**settings, "data": {"train": {"local": str(folder.parent)}}}))
    with (folder / "metrics.jsonl").open("w") as file:
        for batch in range(1, 61):
            step = {"batch": batch, "samples": 64 * batch, "loss": 1 / batch}
            step |= {f"metrics/eval/{stage}_precision": precision * batch / 60} if batch % 20 == 0 else {}
            file.write(json.dumps(step) + "\n")
    return folder


def write_results(folder: Path, weights: Path, accuracy: float, feature: str) -> None:
    folder.mkdir(parents=True)
    evaluations = {"knn": {"figures": {"top1": accuracy}, "learning_rates": []}}
    results = {"weights": str(weights), "feature": feature, "evaluations": evaluations}
    (folder / "results.json").write_text(json.dumps(results))


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    mae = make_run(tmp_path / "mae", "mae", 0.125)
    return [mae, make_run(tmp_path / "scratch", "wsp", 0.375), make_run(tmp_path / "after", "wsp", 0.625, str(mae))]


def test_runs_stand_beside_each_other(runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_results(tmp_path / "evaluations/a", tmp_path / "mae", 0.8125, "mean_patch_token")
    write_results(tmp_path / "evaluations/b", Path("after"), 0.4375, "class_token")
    write_results(tmp_path / "evaluations/c", tmp_path / "of another run", 0.9999, "class_token")
    Image.new("RGB", (4, 4)).save(tmp_path / "labels.png")
    Image.new("RGB", (5, 5)).save(tmp_path / "evaluations/b/retrieval.png")
    assert main(["report", *map(str, runs), "--out", "pages/three.html"]) == 0
    page = Page(tmp_path / "pages/three.html")
    for figure in ("0.125", "0.375", "0.625", "0.8125", "0.4375", "mean patch token", "3,840", "initialize_from"):
        assert figure in page.text
    assert "0.9999" not in page.text
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in page.addresses)
    pictures = [tmp_path / "labels.png", tmp_path / "evaluations/b/retrieval.png"]
    assert page.images == [picture.read_bytes() for picture in pictures], "once, of the labels that they share"


def test_curves_of_one_stage_are_drawn_over_each_other(runs: list[Path], tmp_path: Path) -> None:
    plots = Page(write_comparison(runs, tmp_path / "nothing", tmp_path / "three.html")).plots
    names = {title: {trace["name"] for trace in traces if "name" in trace} for title, traces in plots.items()}
    assert names["Eval mae precision"] == {"mae"}
    assert names["Eval wsp precision"] == names["Training loss"] == {"scratch", "after"}
    precisions = {trace["name"]: trace["y"] for trace in plots["Eval wsp precision"]}
    assert precisions["after"] == pytest.approx([0.625 * batch / 60 for batch in (20, 40, 60)], rel=1e-5)


def test_flops_of_a_run_include_those_of_the_run_it_began_with(runs: list[Path], tmp_path: Path) -> None:
    for folder, flops in zip(runs, (5e9, 8e9, 8e9), strict=True):
        (folder / "starts.jsonl").write_text(json.dumps({"start": 1, "training_flops": flops}) + "\n")
    page = Page(write_comparison(runs, tmp_path / "nothing", tmp_path / "three.html"))
    plots = page.plots
    assert f"{13e9 * 64 * 60:.3g}" in page.text, "of the run after, in the table of final figures too"
    flops = {trace["name"]: trace["meta"]["flops"] for trace in plots["Eval wsp precision"]}
    samples = 64 * 60
    assert flops == {
        "scratch": {"before": 0, "per_sample": 8e9},
        "after": {"before": 5e9 * samples, "per_sample": 8e9},
    }


def test_what_is_set_differently_is_told_of_which_stage_where_there_are_several(
    runs: list[Path], tmp_path: Path
) -> None:
    several = write_comparison(runs, tmp_path / "nothing", tmp_path / "three.html").read_text()
    of_one = write_comparison(runs[1:], tmp_path / "nothing", tmp_path / "two.html").read_text()
    assert ">What is set differently among the runs of wsp</h2>" in several
    assert ">What is set differently</h2>" in of_one


def test_the_page_of_one_run_has_its_evaluations_and_labels(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_results(tmp_path / "evaluations/a", runs[0], 0.8125, "class_token")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "labels.png")
    assert main(["report", str(runs[0])]) == 0
    page = Page(runs[0] / "report.html")
    assert "knn top1" in page.text and "0.8125" in page.text
    assert (tmp_path / "labels.png").read_bytes() in page.images


def test_mistakes_are_told(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(runs[0]), str(tmp_path / "nothing")]) == 2
    assert "nothing" in capsys.readouterr().err
    assert main(["report", str(runs[0]), "--out", str(tmp_path)]) == 2
    assert "--out" in capsys.readouterr().err
