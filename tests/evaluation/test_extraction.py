"""What evaluations are given of a dataset with faults, through the loader."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from streaming import MDSWriter

from maws_composer.data.classes import CLASSES_FILE
from maws_composer.data.guards import ShardError
from maws_composer.data.loader import build_loader_of_each_once
from maws_composer.data.settings import EvalData
from maws_composer.evaluation.extraction import extract
from maws_composer.evaluation.features import Extracted
from maws_composer.evaluation.preflight import preflight
from maws_composer.evaluation.settings import Evaluation, load_evaluation
from maws_composer.evaluation.suite import Frozen, features_of
from maws_composer.models.initialization import initialize
from maws_composer.models.sizes import SIZES
from maws_composer.models.vit import VisionTransformer
from maws_composer.parallel.leave import leave_process_group
from tests.evaluation.lit import write_lit
from tests.labelled import classes_of
from tests.processes import free_port

COUNT = 30
BROKEN = (4, 29)  # images


@pytest.fixture(autouse=True, scope="module")
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{free_port()}", rank=0, world_size=1)
    yield
    leave_process_group()


def write(
    folder: Path, captions: Sequence[str], broken: Sequence[int] = (), shift: int = 0, hashes: Sequence[str] = ("sha1",)
) -> None:
    """Shades of grey; picture n has the class (n + shift) % 3."""
    columns = {"image": "bytes", "id": "str", "labels": "ndarray:int32", "caption": "str"}
    with MDSWriter(out=str(folder), columns=columns, hashes=[*hashes], size_limit=1 << 12, exist_ok=True) as writer:
        for number, caption in enumerate(captions):
            buffer = io.BytesIO()
            Image.new("RGB", (24, 24), (number * 8,) * 3).save(buffer, "PNG")
            image = b"no image" if number in broken else buffer.getvalue()
            labels = np.array([(number + shift) % 3], np.int32)
            writer.write({"image": image, "id": str(number), "labels": labels, "caption": caption})


def run_on(folder: Path) -> Evaluation:
    config = folder / "eval.yaml"
    config.write_text(
        f"weights: {folder}/lit\n"
        f"data: {{test: {{local: {folder}/test}}}}\n"
        "evaluations: {retrieval: null}\n"
        f"save_folder: {folder}/out\n"
        f"speed: {{device_eval_batch_size: 8, workers: 0, scratch_folder: {folder}/scratch}}\n"
    )
    return load_evaluation(config).run


def extracted(folder: Path, columns: Sequence[str]) -> Extracted:
    """With an image's mean as its feature."""
    run = run_on(folder)
    loader = build_loader_of_each_once(run.data.test, "data.test", 24, run, columns)
    found = extract(lambda images: images.float().mean((2, 3)), loader, torch.device("cpu"), "")
    assert found is not None
    return found


def test_images_without_a_caption_are_there_and_those_that_cannot_be_decoded_are_not(tmp_path: Path) -> None:
    captions = ["" if n % 3 == 0 else " \n" if n == 7 else f"picture {n}" for n in range(COUNT)]
    write(tmp_path / "test", captions, BROKEN)
    found = extracted(tmp_path, ("labels", "caption"))
    usable = [n for n in range(COUNT) if n not in BROKEN]
    assert found.ids == tuple(map(str, usable))
    assert found.captions == tuple("" if n == 7 else captions[n] for n in usable)
    assert found.features.labels.squeeze(1).tolist() == [n % 3 for n in usable]
    assert found.features.values[:, 0].tolist() == [n * 8 for n in usable]
    assert found.pictures[:, 0, 0, 0].tolist() == [usable[row] * 8 for row in found.pictured.tolist()]
    without = extracted(tmp_path, ("labels",))
    assert without.features.values.equal(found.features.values)


def test_a_dataset_that_begins_without_captions_is_not_refused(tmp_path: Path) -> None:
    write_lit(tmp_path)
    write(tmp_path / "test", [""] * 20 + ["red", "blue"])
    run_on(tmp_path)
    preflight(load_evaluation(tmp_path / "eval.yaml"))


def test_labels_that_are_no_classes_of_the_dataset_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "test", ["x"] * COUNT)
    (tmp_path / "test" / CLASSES_FILE).write_text(classes_of([[0], [1]]).to_json())
    with pytest.raises(ShardError, match=r"has label 2; there are classes 0 to 1"):
        labels_seen(tmp_path, small_encoder())


def small_encoder() -> VisionTransformer:
    encoder = VisionTransformer(SIZES["vit_micro"], 24)
    initialize(encoder, seed=0)
    return encoder


def labels_seen(folder: Path, encoder: VisionTransformer) -> list[int]:
    data = EvalData(local=str(folder / "test"))
    features = features_of("test", data, Frozen(encoder, "weights", "", None), run_on(folder), ("labels",))
    assert features is not None
    return features.features.labels.squeeze(1).tolist()


@pytest.mark.parametrize("hashes", [(), ("sha1",)])
def test_features_are_used_again_but_not_for_labels_that_were_numbered_anew(
    hashes: Sequence[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = small_encoder()
    caplog.set_level("INFO")
    for shift in (0, 1):  # the same names and sizes
        write(tmp_path / "test", ["x"] * COUNT, shift=shift, hashes=hashes)
        assert labels_seen(tmp_path, encoder) == [(n + shift) % 3 for n in range(COUNT)]
    assert "earlier evaluation" not in caplog.text
    assert labels_seen(tmp_path, encoder) == [(n + 1) % 3 for n in range(COUNT)]
    assert ("are those of an earlier evaluation" in caplog.text) == bool(hashes)
