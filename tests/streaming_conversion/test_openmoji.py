"""The quickstart's pictures."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from streaming import LocalDataset

from streaming_conversion.cli import main
from streaming_conversion.readers import openmoji
from streaming_conversion.readers.openmoji import PACKAGES, base
from tests.streaming_conversion.conftest import content

pytestmark = pytest.mark.skipif(
    not all(find_spec(name) for name in PACKAGES), reason="the extra `quickstart` is not installed"
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("openmoji")
    assert main(["openmoji", str(folder), "--processes", "1"]) == 0
    return folder


@pytest.fixture(scope="module")
def samples(dataset: Path) -> dict[str, list[dict[str, Any]]]:
    splits = {name: LocalDataset(local=str(dataset / name)) for name in ("train", "val")}
    return {name: [split[index] for index in range(len(split))] for name, split in splits.items()}


def emoji(sample: dict[str, Any]) -> str:
    return "".join(chr(int(code, 16)) for code in sample["id"].split("-"))


def test_a_fifth_of_3900_pictures_is_held_out(samples: dict[str, list[dict[str, Any]]]) -> None:
    train, val = len(samples["train"]), len(samples["val"])
    assert train + val >= 3900
    assert 0.19 < val / (train + val) < 0.22


def test_no_emoji_is_in_both_splits_in_another_skin_tone_gender_or_direction(
    samples: dict[str, list[dict[str, Any]]],
) -> None:
    bases = {name: {base(emoji(sample)) for sample in split} for name, split in samples.items()}
    assert not bases["train"] & bases["val"]
    together = [base(text) for text in ("🏃", "🏃🏽", "🏃‍♀️", "🏃🏿‍♂️", "🏃🏻‍♀️‍➡️")]
    assert len(set(together)) == 1
    assert base("🧑‍🚀") == base("👩🏾‍🚀") != base("🧑‍🎨")


def test_pictures_are_72_pixels_on_white_and_not_blank(samples: dict[str, list[dict[str, Any]]]) -> None:
    seen = Counter[bytes]()
    for sample in samples["train"] + samples["val"]:
        with Image.open(io.BytesIO(sample["image"])) as picture:
            assert picture.format == "PNG" and picture.size == (72, 72)
            pixels = np.asarray(picture.convert("RGBA"))
        assert (pixels[..., 3] == 255).all()
        assert (pixels[..., :3] != 255).any(-1).mean() > 0.005, sample["caption"]
        seen[sample["image"]] += 1
    assert len(seen) > 3600  # a few are drawn alike, such as the flags of Norway and Svalbard


def test_hashtags_are_the_words_of_the_english_name(samples: dict[str, list[dict[str, Any]]]) -> None:
    by_emoji = {emoji(sample): sample for split in samples.values() for sample in split}
    assert by_emoji["🐈‍⬛"]["caption"] == "black cat"
    assert by_emoji["🐈‍⬛"]["hashtags"] == ["black", "cat"]
    assert by_emoji["👩🏽‍🚀"]["hashtags"] == ["woman", "astronaut", "medium", "skin", "tone"]
    assert all(sample["hashtags"] and sample["caption"] for sample in by_emoji.values())


def test_it_is_the_same_every_time(dataset: Path, tmp_path: Path) -> None:
    assert main(["openmoji", str(tmp_path), "--processes", "1"]) == 0
    assert content(tmp_path) == content(dataset)


def test_the_license_is_stated(dataset: Path) -> None:
    source = json.loads((dataset / "train/dataset.json").read_text())["source"]
    assert source["license"] == "CC BY-SA 4.0"
    assert "OpenMoji" in source["attribution"]


def test_a_finished_half_is_not_done_again(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["openmoji", str(tmp_path), "--processes", "1"]) == 0
    shutil.rmtree(tmp_path / "val")  # as if it had been interrupted there
    capsys.readouterr()
    assert main(["openmoji", str(tmp_path), "--processes", "1"]) == 0
    assert f"{tmp_path}/train: finished before\n" in capsys.readouterr().out
    assert content(tmp_path) == content(dataset)
    assert main(["openmoji", str(tmp_path), "--processes", "1"]) == 2
    assert capsys.readouterr().err == f"{tmp_path}/train holds a finished dataset; --overwrite replaces it\n"


def test_without_the_extra_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = openmoji.find_spec
    monkeypatch.setattr(openmoji, "find_spec", lambda name: None if name == "resvg_py" else found(name))
    assert main(["openmoji", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "the reader openmoji needs resvg-py: pip install -e '.[quickstart]'\n"


def test_training_pictures_come_once_for_each_language_and_held_out_ones_with_all_names(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["openmoji", str(tmp_path), "--languages", "en,ja,ar", "--size", "16"]) == 0
    plain, pairs = (LocalDataset(str(folder / "train")) for folder in (dataset, tmp_path))
    assert len(pairs) == 3 * len(plain)
    carrot = {pairs[n]["id"]: pairs[n] for n in range(len(pairs)) if pairs[n]["id"].startswith("1F955")}
    assert {name: sample["caption"] for name, sample in carrot.items()} == {
        "1F955-en": "carrot", "1F955-ja": "人参", "1F955-ar": "جزر",
    }  # fmt: skip
    assert len({sample["image"] for sample in carrot.values()}) == 1
    val = LocalDataset(str(tmp_path / "val"))
    captions = json.loads((tmp_path / "val" / "captions.json").read_text(encoding="utf-8"))
    assert {val[n]["id"]: val[n]["caption"] for n in range(len(val))} == {
        name: of["en"] for name, of in captions.items()
    }
    assert all(set(of) == {"en", "ja", "ar"} for of in captions.values())
    with pytest.raises(SystemExit):
        main(["openmoji", str(tmp_path / "other"), "--languages", "en,jp"])
    assert "no names in 'jp'; there are ar, de, en," in capsys.readouterr().err
