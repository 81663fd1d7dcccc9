"""`python -m streaming_conversion imagefolder SRC DST`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from maws_composer.data.classes import Classes, LabelClass
from maws_composer.data.columns import DatasetFile
from streaming_conversion.cli import main
from tests.streaming_conversion.conftest import save_images
from tests.streaming_conversion.test_labels import classes, failure, samples


def folders(root: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        save_images(root / name, count, size=8)
    return root


def test_each_folder_is_a_class(tmp_path: Path) -> None:
    source = folders(tmp_path / "train", {"n02132136": 3, "cat": 5})
    options = ["--processes", "1", "--group-images", "1"]
    assert main(["imagefolder", str(source), str(tmp_path / "mds"), *options]) == 0
    found = classes(tmp_path / "mds")
    assert [(each.name, each.synset, each.count) for each in found.classes] == [
        ("cat", None, 5),
        ("n02132136", "n02132136", 3),
    ]
    read = samples(tmp_path / "mds")
    assert [(sample["id"].split("/")[0], sample["labels"].tolist()) for sample in read] == (
        [("n02132136", [1])] * 3 + [("cat", [0])] * 5
    )
    about = DatasetFile.from_json((tmp_path / "mds/dataset.json").read_bytes())
    assert about.classes == found.digest()
    assert [(group.images, group.lowest) for group in about.groups] == [(3, 3 / 8), (5, 5 / 8)]


def test_a_validation_split_has_the_training_indices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = folders(tmp_path / "train", {"cat": 2, "dog": 2, "owl": 2})
    val = folders(tmp_path / "val", {"owl": 1})
    assert main(["imagefolder", str(train), str(tmp_path / "a"), "--processes", "1"]) == 0
    options = ["--processes", "1", "--classes", str(tmp_path / "a/classes.json")]
    assert main(["imagefolder", str(val), str(tmp_path / "b"), *options]) == 0
    assert [sample["labels"].tolist() for sample in samples(tmp_path / "b")] == [[2]]
    assert (tmp_path / "b/classes.json").read_bytes() == (tmp_path / "a/classes.json").read_bytes()

    capsys.readouterr()
    folders(tmp_path / "val", {"yak": 1})
    error = failure(capsys, "imagefolder", val, tmp_path / "c", *options)
    summary = f"{val} and {tmp_path}/a/classes.json do not fit: 1 problem"
    assert error == f"{summary}:\n\n  yak: there is no such class\n"
    shutil.copy(val / "owl/a/0000.jpg", val / "lost.jpg")
    error = failure(capsys, "imagefolder", val, tmp_path / "c", *options)
    assert error == f"1 image of {val} in no class's folder:\n\n  lost.jpg\n"


def test_a_folder_is_a_synset_or_the_only_class_of_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bird, machine = LabelClass("crane", 5, "n02012849"), LabelClass("crane", 4, "n03126707")
    (tmp_path / "classes.json").write_text(Classes((bird, machine, LabelClass("owl", 1, "n01621127")), 10).to_json())
    options = ["--processes", "1", "--classes", str(tmp_path / "classes.json")]
    val = folders(tmp_path / "val", {"n03126707": 1, "owl": 1, "n02012849": 1})
    assert main(["imagefolder", str(val), str(tmp_path / "mds"), *options]) == 0
    read = [(sample["id"].split("/")[0], sample["labels"].tolist()) for sample in samples(tmp_path / "mds")]
    assert read == [("n02012849", [0]), ("n03126707", [1]), ("owl", [2])]

    folders(tmp_path / "val", {"crane": 1})
    capsys.readouterr()
    assert "  crane: 2 classes have that name, n02012849 or n03126707; name the folder by its synset\n" in failure(
        capsys, "imagefolder", val, tmp_path / "other", *options
    )
