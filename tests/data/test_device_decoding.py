"""`decode: gpu`: the same crops of the same samples, made by the rank, of files. On the CPU here, by the same code."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from PIL import Image
from streaming import MDSWriter
from torch import Tensor

from maws_composer.config.plugins import load_with_ours
from maws_composer.config.run import contradictions
from maws_composer.data import device_decoding
from maws_composer.data.batches import Batch
from maws_composer.data.columns import IMAGE
from maws_composer.data.decode import UndecodableImageError, decode
from maws_composer.data.device_decoding import DeviceDecoder
from maws_composer.data.encoded import CropLater, EncodedJpeg, collate_encoded, open_encoded
from maws_composer.data.loader import build_train_loader
from maws_composer.data.preflight import check_data
from maws_composer.data.settings import TransformSettings
from maws_composer.data.transforms import RandomCropAndFlip
from tests.data import reader
from tests.data.photographs import photograph, with_impossible_sampling
from tests.data.shards import png
from tests.processes import ROOT
from tests.runs import Runs

CROP = RandomCropAndFlip(seed=1, size=224, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3), flip=True)
LIMIT = 10**8
SMALL = (64, 48)


def collated(files: Mapping[str, bytes], crops: int = 1) -> Batch:
    """A batch of files with these ids, as a loader's process hands it over."""
    images = []
    for number, (name, data) in enumerate(files.items()):
        picture = open_encoded(data, LIMIT)
        images.append(
            [
                {
                    "id": name,
                    "labels": np.array([number]),
                    "position": position,
                    "epoch": 0,
                    "replaced": False,
                    "valid": True,
                    IMAGE: CropLater(CROP)(picture, 0, position),
                }
                for position in range(number, crops * len(files), len(files))
            ]
        )
    return collate_encoded(images)


def on(device: str) -> DeviceDecoder:
    return DeviceDecoder(CROP.size, LIMIT, torch.device(device))


def errors(image: Tensor, data: bytes, position: int) -> Tensor:
    """How far a crop's pixels are from those of `exact`."""
    return (image.cpu().int() - CROP(decode(data, LIMIT), 0, position).int()).abs()


def write(folder: Path, files: Sequence[bytes]) -> Path:
    with MDSWriter(out=str(folder), columns={"image": "bytes", "id": "str"}, hashes=["sha1"]) as writer:
        for number, data in enumerate(files):
            writer.write({"image": data, "id": str(number)})
    return folder


def batches(folder: Path, scratch: Path, route: str, **train: Any) -> list[Batch]:
    """An epoch, as training sees it."""
    told = {"local": str(folder), "num_canonical_nodes": 4, "decode": route, **train}
    spec = build_train_loader(reader.settings({"train": told, "scratch": str(scratch / route)}))
    return [spec.batch_transforms(batch) for batch in spec.dataloader]


@pytest.mark.parametrize("size", [(500, 375), (341, 256), (1000, 750), (150, 180)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_those_of_exact_but_for_rounding(size: tuple[int, int], mode: str) -> None:
    data = photograph(size, mode)
    batch = on("cpu")(collated({str(number): data for number in range(8)}))
    found = torch.stack([errors(image, data, position) for position, image in enumerate(batch[IMAGE])])
    assert found.float().mean() < 0.25 and found.max() <= 20  # Pillow rounds, and cuts off at 0 and 255, in between
    assert (found > 2).float().mean() < 0.001


def test_all_kinds_of_files_in_a_batch_are_the_samples_of_exact(tmp_path: Path) -> None:
    as_rgb = photograph(SMALL, keep_rgb=True)
    for_pillow = [png(1, 48), photograph(SMALL, "CMYK"), as_rgb]
    assert isinstance(open_encoded(as_rgb, LIMIT), Image.Image)
    for_device = [photograph(SMALL), photograph(SMALL, "L"), photograph(SMALL, progressive=True), photograph((300, 9))]
    assert all(isinstance(open_encoded(data, LIMIT), EncodedJpeg) for data in for_device)
    folder = write(tmp_path / "data", [*for_pillow, *for_device, photograph(SMALL)[:-200]] * 12)
    replaced = 0
    for exact, ours in zip(batches(folder, tmp_path, "exact"), batches(folder, tmp_path, "gpu"), strict=True):
        assert exact["id"] == ours["id"]
        for name in ("position", "replaced", "valid"):
            assert torch.equal(exact[name], ours[name])
        assert ours[IMAGE].dtype == torch.uint8 and ours[IMAGE].shape == exact[IMAGE].shape
        assert (exact[IMAGE].int() - ours[IMAGE].int()).abs().max() <= 3
        decoded_by_workers = [row for row, name in enumerate(ours["id"]) if int(name) % 8 < len(for_pillow)]
        assert torch.equal(exact[IMAGE][decoded_by_workers], ours[IMAGE][decoded_by_workers])
        replaced += int(ours["replaced"].sum())
    assert replaced >= 10


def test_a_batch_without_a_jpeg_is_that_of_exact(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", [png(number) for number in range(32)])
    for exact, ours in zip(batches(folder, tmp_path, "exact"), batches(folder, tmp_path, "gpu"), strict=True):
        assert torch.equal(exact[IMAGE], ours[IMAGE])


def test_large_pictures_are_decoded_a_few_at_a_time_with_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = collated({str(number): photograph((200, 150), number=number) for number in range(7)})
    at_once, sizes, original = on("cpu")(batch), [], device_decoding.decode_jpeg

    def measuring(given: list[Tensor], *how: Any) -> list[Tensor]:
        sizes.append(len(given))
        return original(given, *how)

    monkeypatch.setattr(device_decoding, "_AT_ONCE", 3 * 200 * 150)
    monkeypatch.setattr(device_decoding, "decode_jpeg", measuring)
    assert torch.equal(on("cpu")(batch)[IMAGE], at_once[IMAGE])
    assert sizes == [3, 3, 1]


def test_what_the_device_refuses_pillow_decodes_and_the_others_are_found_in_few_attempts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = {str(number): photograph((200, 150), number=number) for number in range(32)}
    batch, expected = collated(files), on("cpu")(collated(files))
    attempts, original = [], device_decoding.decode_jpeg

    def picky(given: list[Tensor], *how: Any) -> list[Tensor]:
        attempts.append(len(given))
        if any(file.numpy().tobytes() in (files["5"], files["20"]) for file in given):
            raise RuntimeError("an arithmetic-coded JPEG, or so")
        return original(given, *how)

    monkeypatch.setattr(device_decoding, "decode_jpeg", picky)
    made = on("cpu")(batch)
    assert torch.equal(made[IMAGE], expected[IMAGE]) and not made["replaced"].any()
    assert len(attempts) <= 1 + 2 * 2 * 5
    assert [record.getMessage() for record in caplog.records] == [
        "Pillow decodes a JPEG, and others to come, that the device refuses: an arithmetic-coded JPEG, or so"
    ]


@pytest.mark.parametrize("crops", [1, 3])
def test_where_nobody_can_decode_an_image_the_next_takes_its_place(
    crops: int, caplog: pytest.LogCaptureFixture
) -> None:
    files = {name: photograph((200, 150), number=number) for number, name in enumerate("abcde")}
    files |= {name: with_impossible_sampling(files[name]) for name in "bce"}
    with pytest.raises(UndecodableImageError):
        decode(files["b"], LIMIT)
    batch = on("cpu")(collated(files, crops))
    assert batch["id"] == list("addda") * crops
    assert batch["labels"][:, 0].tolist() == [0, 3, 3, 3, 0] * crops
    assert batch["replaced"].tolist() == [False, True, True, False, True] * crops
    assert batch["position"].tolist() == list(range(5 * crops))  # so that masks and the count of samples go on
    for row, source in enumerate([0, 3, 3, 3, 0] * crops):
        position = row - row % 5 + source
        assert errors(batch[IMAGE][row], files[batch["id"][row]], position).float().mean() < 0.3
    told = re.findall(r"sample (.) cannot be decoded: .+; (.) takes its place", caplog.text)
    assert told == [("b", "d"), ("c", "d"), ("e", "a")]


def test_a_batch_of_which_nothing_can_be_decoded_is_an_error_that_names_a_sample() -> None:
    bad = with_impossible_sampling(photograph(SMALL))
    with pytest.raises(UndecodableImageError, match="none of the 2 images of a batch can be decoded; first: "):
        on("cpu")(collated({"first": bad, "second": bad}))


def test_an_image_with_several_crops_travels_and_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [photograph(SMALL, number=number) for number in range(24)]
    folder = write(tmp_path / "data", files)
    decoded, original = [], device_decoding.decode_jpeg

    def counting(given: list[Tensor], *how: Any) -> list[Tensor]:
        decoded.extend(file.numpy().tobytes() for file in given)
        return original(given, *how)

    monkeypatch.setattr(device_decoding, "decode_jpeg", counting)
    exact, ours = (batches(folder, tmp_path, route, repeated_augmentation=4) for route in ("exact", "gpu"))
    assert sorted(decoded) == sorted(files)
    for theirs, own in zip(exact, ours, strict=True):
        assert theirs["id"] == own["id"] and torch.equal(theirs["position"], own["position"])
        assert (theirs[IMAGE].int() - own[IMAGE].int()).abs().max() <= 3


def test_resumed_and_through_loader_processes_the_batches_are_the_same(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", [photograph((200, 150), number=number) for number in range(96)])

    def scenario(**changed: Any) -> dict[str, Any]:
        train = {"local": str(folder), "num_canonical_nodes": 4, "decode": "gpu"}
        return {"train": train, "scratch": str(tmp_path / "scratch"), **changed}

    whole, cut = reader.read(scenario()), reader.read(scenario(batches=2))
    assert whole["error"] is None and len(whole["rows"]) == 96
    resumed, crossed = reader.read(scenario(resume=cut["state"])), reader.read(scenario(workers=2))
    assert resumed["error"] is None and resumed["rows"] == whole["rows"][2 * 16 :]
    assert crossed["error"] is None and crossed["rows"] == whole["rows"]


@pytest.mark.slow
def test_training_has_nearly_the_losses_of_exact_and_goes_on_with_the_same_bits(runs: Runs, tmp_path: Path) -> None:
    pictures = write(tmp_path / "jpegs", [photograph((96, 72), number=number) for number in range(256)])
    told = (f"data.train.local={pictures}", "max_duration=480sp", "speed.workers=1")
    (tmp_path / "door").mkdir()
    (tmp_path / "door" / "without_a_gpu.py").write_text(
        "from maws_composer.data import preflight\n\npreflight.device_problems = lambda data: []\n"
    )
    ours = (*told, "data.train.decode=gpu", f"code_paths=[{tmp_path / 'door'}]")
    exact, whole = runs("exact", *told), runs("whole", *ours)
    assert exact.code == whole.code == 0, whole.output
    assert len(whole.losses) == 30 and whole.losses != exact.losses
    assert_allclose(whole.losses, exact.losses, rtol=2e-3)
    runs("killed", *ours, kill_after=17)
    assert runs("killed", *ours).losses == whole.losses


def test_it_is_refused_without_a_gpu_before_anything_starts_and_not_earlier(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", [photograph(SMALL)] * 64)
    load_with_ours(ROOT / "yamls/mae_vitb.yaml", [f"data.train.local={folder}", "data.train.decode=gpu"])
    train = {"local": str(folder), "num_canonical_nodes": 4, "decode": "gpu"}
    run = reader.settings({"train": train, "scratch": str(tmp_path)})
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    (problem,) = check_data(run, 1, 1)
    assert problem.path == "data.train.decode"
    assert problem.message == "gpu needs a CUDA GPU and none is visible; set fast, or exact"
    assert problem not in check_data(run, 1, 1, ["image_embedding"])  # pictures are not looked at


def test_a_torchvision_without_nvjpeg_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def without(*arguments: Any) -> None:
        raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support\nat somewhere.cpp")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device_decoding, "decode_jpeg", without)
    data = reader.settings({"train": {"local": "x", "decode": "gpu"}, "scratch": str(tmp_path)}).data.train
    (problem,) = device_decoding.device_problems(data)
    assert problem.path == "data.train.decode"
    assert "torchvision not compiled with nvJPEG support); install" in problem.message


@pytest.mark.parametrize("given", [{"central_crop": True}, {"transform": TransformSettings(name="of_mine")}])
def test_what_it_cannot_do_is_told(given: dict[str, Any], tmp_path: Path) -> None:
    run = reader.settings({"train": {"local": "x", "decode": "gpu", **given}, "scratch": str(tmp_path)})
    (problem,) = contradictions(run)
    assert problem.path == "data.train.decode"
    assert problem.message.startswith("gpu makes the usual random crops only: ")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU is visible")
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_gpu_decodes_what_the_cpu_does(mode: str) -> None:
    """Color is less sharp: by default, nvJPEG repeats halved colors where libjpeg interpolates between them."""
    files = {str(number): photograph((500, 375), mode, number=number) for number in range(40)}
    files["3"] = photograph((500, 375), mode, progressive=True)
    files["7"] = png(7, 300)
    files["9"] = with_impossible_sampling(files["9"])
    expected, made = on("cpu")(collated(files)), on("cuda")(collated(files))
    assert made[IMAGE].device.type == "cuda" and made[IMAGE].shape == expected[IMAGE].shape
    assert made["id"] == expected["id"] and torch.equal(made["replaced"], expected["replaced"])
    apart = (made[IMAGE].cpu().int() - expected[IMAGE].int()).abs().float().mean((1, 2, 3))
    assert apart.max() < 4
