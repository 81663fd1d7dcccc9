"""report.html, and the pictures in it."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maws_composer.reporting.pictures import PictureFiles, find_pictures
from maws_composer.reporting.reconstructions import draw_reconstructions
from maws_composer.reporting.report import write_report

CONFIG = """\
run_name: tiny & <small>
stage: mae
model: {size: vit_micro, image_size: 48}
precision: fp32
global_train_batch_size: 256
data: {train: {remote: "s3://bucket/images"}}
"""


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(CONFIG)
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for batch in range(1, 121):
            step = {"batch": batch, "samples": 256 * batch, "loss": 1 / batch, "lr/decayed": 1e-3 / batch}
            step |= {"world_size": 2 if batch < 100 else 1, "seconds": 2.0 * batch}
            step |= {"run/start": 1 if batch < 100 else 3, "run/gpu_hours": batch / 8}
            if batch in (1, 100):
                step |= {"run/lost_steps": 7 if batch == 100 else 0, "run/seconds_to_first_step": 61.0}
            step |= {"metrics/eval/loss": 2 / batch, "metrics/eval/precision": 0.5} if batch % 40 == 0 else {}
            file.write(json.dumps(step) + "\n")
    figures = {"title": "Ridge probe", "rows": [{"encoder": "random", "mAP": 0.655}, {"encoder": "MAE", "mAP": 0.806}]}
    (tmp_path / "figures.json").write_text(json.dumps(figures))
    return tmp_path


class Page(HTMLParser):
    """Every address a browser would follow, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe")
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "srcset")]

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def images(self) -> list[bytes]:
        return [base64.b64decode(address.split(",", 1)[1]) for address in self.addresses]


def test_a_report_is_one_file_without_addresses_outside_it(run_folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    pictures = PictureFiles(run_folder)
    pictures.log_images(pixels // 2, "reconstructions", channels_last=True, step=60)
    pictures.log_images(pixels, "reconstructions", channels_last=True, step=120)
    path = write_report(run_folder)
    assert path == run_folder / "report.html"
    page = Page(path)
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not re.search(r"https?://|url\(|@import", path.read_text())
    names = ["reconstructions-ba120", "loss", "learning_rate", "metrics-eval-precision"]
    assert page.images == [(run_folder / f"pictures/{name}.png").read_bytes() for name in names]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(page.images[0]))), pixels)


def test_a_report_tells_the_facts(run_folder: Path) -> None:
    text = Page(write_report(run_folder)).text
    assert "tiny & <small>" in text  # escaped in the file, or it would be a tag
    for fact in (
        "30,720 samples in 120 batches",
        "2 (batches 1 to 99), 1 (batches 100 to 120)",
        "4 min 0 s",
        "1 → 0.008333",
        "eval loss",
        "0.05 → 0.01667",
        "Ridge probe",
        "0.806",
        "s3://bucket/images",
    ):
        assert fact in text


def test_a_report_lists_the_starts_of_an_interrupted_run(run_folder: Path) -> None:
    page = write_report(run_folder).read_text()
    rows = re.findall("<tr>(.*?)</tr>", page[page.index("<h2>Starts</h2>") : page.index("<h2>Loss</h2>")])
    cells = [re.findall("<t[hd].*?>(.*?)</t[hd]>", row) for row in rows]
    assert cells == [
        ["start", "processes", "batches", "to the first step", "steps lost before"],
        ["1", "2", "1 to 99", "1 min 1 s", "0"],
        ["3", "1", "100 to 120", "1 min 1 s", "7"],  # the second left no step
    ]


def test_a_run_that_has_not_begun_has_a_report(tmp_path: Path) -> None:
    assert Page(write_report(tmp_path)).images == []


def test_curves_are_not_blank(run_folder: Path) -> None:
    write_report(run_folder)
    for name in ("loss", "learning_rate"):
        pixels = np.asarray(Image.open(run_folder / f"pictures/{name}.png"))
        assert pixels.shape[2] == 4 and 0.005 < (pixels[..., 3] > 0).mean() < 0.5


def test_pictures_have_captions_and_the_newest_counts(tmp_path: Path) -> None:
    batch = np.zeros((2, 3, 8, 8), np.float32)
    PictureFiles(tmp_path).log_images(batch, "maps/of heat", step=3)
    Image.new("RGB", (4, 4)).save(tmp_path / "pictures/by_hand.png")
    (tmp_path / "pictures/by_hand.txt").write_text("Drawn by hand.\n")
    found = {picture.path.name: picture.caption for picture in find_pictures(tmp_path / "pictures")}
    assert found == {
        "by_hand.png": "Drawn by hand.",
        "maps-of-heat-1-ba3.png": "maps/of heat 1, after batch 3",
        "maps-of-heat-2-ba3.png": "maps/of heat 2, after batch 3",
    }


def test_reconstructions_show_all_pixels_of_every_image_in_its_place() -> None:
    colors = [(10, 0, 200), (200, 10, 0), (0, 200, 10)]
    images = [np.tile(np.array(color, np.uint8), (5, 48, 48, 1)) for color in colors]
    for column in images:
        column[:, 0, 0] = np.arange(5)[:, None]  # each image's number, in its corner
    sheet = draw_reconstructions(*images)
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3
    enlarged = 3 * 3
    for color in colors:
        assert (sheet == color).all(-1).sum() == 5 * (48 * 48 - 1) * enlarged
    for number in range(5):
        rows, _ = np.nonzero((sheet == number).all(-1))
        assert len(set(rows // 3 * 3)) <= 2 and len(rows) == 3 * enlarged, "one row of three"
    with pytest.raises(ValueError, match="expected three arrays of one shape"):
        draw_reconstructions(images[0], images[1], images[2][:4])
    with pytest.raises(ValueError, match="expected uint8"):
        draw_reconstructions(*(image / 255 for image in images))
