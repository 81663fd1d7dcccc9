"""The fast route makes nearly the pixels of the exact one, of the same crops, and refuses what that refuses."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from streaming import MDSWriter

from maws_composer.config.plugins import load_with_ours
from maws_composer.config.problems import ConfigError
from maws_composer.data.batches import collate, split_batch
from maws_composer.data.decode import FORMATS, UndecodableImageError, decode
from maws_composer.data.fast_jpeg import Jpeg, open_jpeg
from maws_composer.data.loader import build_train_loader
from maws_composer.data.transforms import RandomCropAndFlip
from tests.data import reader
from tests.data.photographs import photograph
from tests.processes import ROOT

CROP = RandomCropAndFlip(seed=1, size=224, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3), flip=True)
LIMIT = 10**8


def difference(data: bytes, position: int) -> np.ndarray:
    exact, fast = (CROP(route(data, LIMIT), 0, position).numpy().astype(float) for route in (decode, open_jpeg))
    return np.abs(exact - fast)


@pytest.mark.parametrize(("size", "mean"), [((500, 375), 1.5), ((341, 256), 1.5), ((2000, 1500), 4)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_differ_by_as_little_as_is_said(size: tuple[int, int], mean: float, mode: str) -> None:
    data = photograph(size, mode)
    assert isinstance(open_jpeg(data, LIMIT), Jpeg)
    assert np.mean([difference(data, position).mean() for position in range(20)]) < mean


def test_a_picture_is_not_turned_by_what_its_camera_said() -> None:
    sideways = Image.Exif()
    sideways[0x0112] = 6  # orientation: the exact route ignores it, too
    assert difference(photograph((400, 300), exif=sideways), 0).mean() < 1.5


def test_the_box_is_the_exact_ones_to_a_pixel_of_the_scaled_picture() -> None:
    width, height, scale = 1800, 1200, 4
    ramps = np.zeros((height, width, 3), np.uint8)
    ramps[..., 0] = np.linspace(0, 255, width)
    ramps[..., 1] = np.linspace(0, 255, height)[:, None]
    file = io.BytesIO()
    Image.fromarray(ramps).save(file, "JPEG", quality=95)
    box = (203, 101, 1203, 1097)
    made = open_jpeg(file.getvalue(), LIMIT).crop(box, 224).astype(float)
    for channel, (low, high, length) in enumerate([(box[0], box[2], width), (box[1], box[3], height)]):
        expected = (low + (np.arange(224) + 0.5) * (high - low) / 224) / length * 255
        found = made[channel].mean(channel)  # over the other axis
        assert np.abs(found - expected).max() < 1.5 * scale * 255 / length + 2  # and JPEG's own error


def test_crops_of_one_picture_share_its_decoding_and_are_what_they_are_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    data, calls = photograph((500, 375)), []
    alone = [CROP(open_jpeg(data, LIMIT), 0, position) for position in range(6)]
    original = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: calls.append(arguments[1]) or original(*arguments))
    picture = open_jpeg(data, LIMIT)
    assert all(torch.equal(CROP(picture, 0, position), alone[position]) for position in range(6))
    assert len(calls) == len(set(calls)) <= 2


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"MPO", "AVIF", "JPEG2000"}))
def test_other_formats_are_decoded_exactly(name: str) -> None:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)).save(file, name)
    if name != "JPEG":
        assert not difference(file.getvalue(), 0).any()


def test_cmyk_is_decoded_exactly() -> None:
    assert not difference(photograph((300, 300), "CMYK"), 3).any()


@pytest.mark.parametrize("cut", [10, 300, 20_000])
def test_what_is_cut_off_is_undecodable_as_on_the_exact_route(cut: int) -> None:
    data = photograph((500, 375))[:-cut]
    for route in (decode, open_jpeg):
        with pytest.raises(UndecodableImageError):
            CROP(route(data, LIMIT), 0, 0)


def test_too_many_pixels_are_refused_before_anything_is_decoded() -> None:
    with pytest.raises(UndecodableImageError, match="limit"):
        open_jpeg(photograph((500, 375)), 1000)


def test_a_loader_reads_the_same_samples_on_both_routes_and_replaces_the_same(tmp_path: Path) -> None:
    whole = photograph((64, 48))
    with MDSWriter(out=str(tmp_path / "data"), columns={"image": "bytes", "id": "str"}, hashes=["sha1"]) as writer:
        for number in range(100):
            writer.write({"image": whole[:-200] if number % 10 == 3 else whole, "id": str(number)})
    batches = []
    for route in ("exact", "fast"):
        train = {"local": str(tmp_path / "data"), "num_canonical_nodes": 4, "max_bad_share": 1.0, "decode": route}
        spec = build_train_loader(reader.settings({"train": train, "scratch": str(tmp_path / route)}))
        batches.append(collate([(sample,) for batch in spec.dataloader for sample in split_batch(batch, 1)]))
    exact, fast = batches
    assert exact["id"] == fast["id"]
    assert torch.equal(exact["replaced"], fast["replaced"]) and exact["replaced"].sum() >= 8
    assert (
        0 < (exact["image"].float() - fast["image"].float()).abs().mean() < 15
    )  # at eight pixels a side, where half a pixel is much


@pytest.mark.parametrize(
    ("given", "said"),
    [(["data.train.central_crop=true"], "fast makes the usual random crops"), (["data.train.decode=fats"], "fast")],
)
def test_what_fast_cannot_do_is_told(given: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_with_ours(ROOT / "yamls/mae_vitb.yaml", ["data.train.local=x", "data.train.decode=fast", *given])
    (problem,) = caught.value.problems
    assert problem.path == "data.train.decode" and said in problem.message
