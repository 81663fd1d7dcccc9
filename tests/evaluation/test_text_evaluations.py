"""`evaluate.py` with evaluations of text, on a LiT run in miniature."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn.functional import normalize

from maws_composer.config.problems import ConfigError
from maws_composer.data.captions import CaptionTokenizer
from maws_composer.evaluation.preflight import preflight
from maws_composer.evaluation.settings import load_evaluation
from maws_composer.evaluation.wording import read_templates
from maws_composer.models.clip import ImageTextModel
from maws_composer.stages.pixels import normalize as normalize_pixels
from tests.evaluation.lit import NAMES, write_captioned, write_lit
from tests.evaluation.test_evaluate import evaluate

IMAGES = 37


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    evaluation = {
        "weights": str(folder / "lit"),
        "data": {"test": {"local": str(folder / "test")}},
        "evaluations": {
            "zero_shot": {"languages": list(NAMES), "class_names": str(folder / "test" / "names.yaml")},
            "retrieval": None,
        },
        "speed": {"device_eval_batch_size": 8, "workers": 0, "scratch_folder": str(folder / "scratch")},
    }
    (folder / "eval.yaml").write_text(yaml.safe_dump(evaluation, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> ImageTextModel:
    return write_lit(folder)


@pytest.fixture(scope="module")
def samples(folder: Path) -> list:
    return write_captioned(folder / "test", IMAGES)


def test_figures_on_two_processes_are_those_of_the_model_alone(folder: Path, model: ImageTextModel, samples) -> None:
    finished = evaluate(folder, f"save_folder={folder}/out", processes=2)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    found = json.loads((folder / "out" / "results.json").read_text())["evaluations"]
    with torch.no_grad():
        tokenizer = CaptionTokenizer(str(folder / "text"), 20)
        pixels = torch.stack([torch.from_numpy(pixels).permute(2, 0, 1) for pixels, _, _ in samples])
        images = model.encode_image(normalize_pixels(pixels))
        labels = torch.tensor([label for _, label, _ in samples])
        for language, names in NAMES.items():
            rows = [
                model.encode_text(**tokenizer([t.replace("{}", name) for name in of for t in read_templates(language)]))
                for of in names
            ]
            scores = images @ normalize(torch.stack([row.mean(0) for row in rows]), dim=1).T
            expected = float((scores.argmax(1) == labels).double().mean())
            assert found["zero_shot"]["figures"][f"{language}/top1"] == pytest.approx(expected, abs=1.01 / IMAGES)
            best = found["zero_shot"]["guesses"][language]
            assert [guesses[0]["text"] for guesses in best] == [
                names[index][0] for index in scores[[n * IMAGES // 16 for n in range(1, 16, 2)]].argmax(1).tolist()
            ]
        captions = model.encode_text(**tokenizer([caption for _, _, caption in samples]))
        order = (images @ captions.T).argsort(1, descending=True)
        recall = (order[:, :5] == torch.arange(IMAGES).unsqueeze(1)).any(1).double().mean()
        assert found["retrieval"]["figures"]["image_to_text/recall_at_5"] == pytest.approx(
            float(recall), abs=1.01 / IMAGES
        )
    assert (folder / "out" / "zero_shot.png").stat().st_size > 1000
    assert "zero_shot" in finished.stdout and "text_to_image/recall_at_10" in finished.stdout


def problems_of(folder: Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        preflight(load_evaluation(folder / "eval.yaml", overrides))
    return [f"{problem.path}: {problem.message}" for problem in caught.value.problems]


def test_what_is_missing_is_told_before_anything_is_computed(folder: Path, model: ImageTextModel, samples) -> None:
    assert problems_of(folder, f"weights={folder}/encoder") == [
        f"weights: {folder}/encoder has no text tower, which all of these evaluations need"
    ]
    assert problems_of(folder, "feature=mean_patch_token", "evaluations.retrieval.languages=[ko]") == [
        "feature: evaluations with text look at class tokens; set it to class_token",
        "evaluations.retrieval.languages: there are no captions in 'ko'; data.test has captions in ja",
    ]
    assert problems_of(folder, "evaluations.zero_shot.languages=[en, frensh]")[0].startswith(
        "evaluations.zero_shot.languages: unknown language 'frensh'; nearest is fr"
    )
    (problem,) = problems_of(folder, f"text_tower={folder}/nowhere")
    assert problem.startswith(f"text_tower: there is no folder {folder}/nowhere")


def test_evaluations_of_images_still_need_training_images(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.train: needs remote or local"):
        load_evaluation(folder / "eval.yaml", ["evaluations.knn={}"])
