"""report.html, and the pictures in it."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maws_composer.reporting.picture_logger import PictureFiles
from maws_composer.reporting.pictures import find_pictures, spread
from maws_composer.reporting.reconstructions import draw_reconstructions
from maws_composer.reporting.report import write_report
from tests.reporting.synthetic import eventful_run

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
    """Every address a browser would follow, the text, and what the plots show: title -> plotly's traces."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.text = ""
        self.plots: dict[str, list[dict[str, Any]]] = {}
        self._inside, self._title = "", ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag not in ("link", "iframe")
        self._inside = "plot" if ("type", "application/json") in attributes else tag
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "srcset")]

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "plot":
            self.plots[self._title] = json.loads(data)["data"]
        elif self._inside not in ("script", "style"):
            self.text += data
            self._title = data if self._inside == "h3" else self._title

    @property
    def images(self) -> list[bytes]:
        data = "data:image/png;base64,"
        return [base64.b64decode(address.removeprefix(data)) for address in self.addresses if address.startswith(data)]


def test_a_report_is_one_file_without_addresses_outside_it(run_folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    pictures = PictureFiles(run_folder)
    pictures.log_images(pixels // 2, "reconstructions", channels_last=True, step=60)
    pictures.log_images(pixels, "reconstructions", channels_last=True, step=120)
    path = write_report(run_folder)
    assert path == run_folder / "report.html"
    page = Page(path)
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in page.addresses)
    assert page.images == [(run_folder / f"pictures/reconstructions-ba{batch}.png").read_bytes() for batch in (60, 120)]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(page.images[1]))), pixels)


def test_a_report_tells_the_facts(run_folder: Path) -> None:
    text = Page(write_report(run_folder)).text
    assert "tiny & <small>" in text  # escaped in the file, or it would be a tag
    for fact in (
        "30,720 samples in 120 steps",
        "on 2, then 1 processes",
        "7 steps had to be done again (5.8 %)",
        "eval loss",
        "0.01667 after 30,720 samples",
        "Ridge probe",
        "0.806",
        "s3://bucket/images",
    ):
        assert fact in text


def test_plots_show_what_was_logged(run_folder: Path) -> None:
    plots = Page(write_report(run_folder)).plots
    assert list(plots) == [
        "Loss", "Eval precision", "When it was trained, on how many processes", "Throughput of all processes",
        "Learning rate",
    ]  # fmt: skip
    by_name = {trace["name"]: trace for trace in plots["Loss"] if "name" in trace}
    assert by_name["eval loss"]["x"] == [256 * batch for batch in (40, 80, 120)]
    assert by_name["eval loss"]["y"] == pytest.approx([2 / 40, 2 / 80, 2 / 120], rel=1e-5)
    assert by_name["started again"]["text"] == ["start 3, on 1 process, from batch 100"]
    assert by_name["training"]["y"][0] == pytest.approx(1)
    speeds = plots["Throughput of all processes"][0]["y"]
    assert speeds == pytest.approx([128.0] * len(speeds)), "256 samples in 2 seconds"


def test_a_report_lists_the_starts_of_an_interrupted_run(run_folder: Path) -> None:
    page = write_report(run_folder).read_text()
    table = page[page.index("All 2 starts") :]
    rows = re.findall("<tr>(.*?)</tr>", table[: table.index("</table>")])
    cells = [re.findall("<t[hd].*?>(.*?)</t[hd]>", row) for row in rows]
    assert cells == [
        ["start", "processes", "batches", "to the first step", "training", "steps lost before"],
        ["1", "2", "1 to 99", "1 min 1 s", "0 min 0 s", "0"],
        ["3", "1", "100 to 120", "1 min 1 s", "0 min 0 s", "7"],  # the second left no step
    ]


def test_a_run_that_has_not_begun_has_a_report(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path))
    assert page.images == [] and page.plots == {} and "No steps yet" in page.text


def test_what_a_run_is_called_cannot_run(tmp_path: Path) -> None:
    attack = "</script><script>alert(1)</script>"
    (tmp_path / "config.yaml").write_text(json.dumps({"run_name": attack, "stage": attack}))
    step = {"batch": 1, "samples": 8, "loss": 1.0, attack: 2.0, f"norm/gradient/{attack}": 1.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(step) + "\n")
    Image.new("RGB", (4, 4)).save(tmp_path / "by_hand.png")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "by_hand.png").rename(tmp_path / "pictures/by_hand.png")
    (tmp_path / "pictures/by_hand.txt").write_text(f'"><img src=x onerror=alert(1)>{attack}')
    page = write_report(tmp_path).read_text()
    assert "<script>alert" not in page and "<img src=x" not in page
    assert len(re.findall("<script>", page)) == 2 and attack in Page(tmp_path / "report.html").text


def test_pictures_have_captions_and_are_in_the_order_of_their_batches(tmp_path: Path) -> None:
    pictures = PictureFiles(tmp_path)
    batch = np.zeros((2, 3, 8, 8), np.float32)
    for step in (3, 20, 100):
        pictures.log_images(batch, "maps/of heat", step=step)
    Image.new("RGB", (4, 4)).save(tmp_path / "pictures/by_hand.png")
    (tmp_path / "pictures/by_hand.txt").write_text("Drawn by hand.\n")
    found = find_pictures(tmp_path / "pictures")
    assert list(found) == ["by_hand", "maps/of heat 1", "maps/of heat 2"]
    assert [picture.caption for picture in found["by_hand"]] == ["Drawn by hand."]
    assert [picture.batch for picture in found["maps/of heat 2"]] == [3, 20, 100]
    assert found["maps/of heat 2"][0].caption == "maps/of heat 2, after batch 3"
    assert [picture.batch for picture in spread(found["maps/of heat 2"], 2)] == [3, 100]


def test_a_large_picture_is_carried_as_a_smaller_file(run_folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    PictureFiles(run_folder).log_images(pixels, "noise", channels_last=True, step=1)
    [address] = [each for each in Page(write_report(run_folder)).addresses if each.startswith("data:")]
    kind, data = address.split(";base64,")
    assert kind == "data:image/webp" and len(data) < (run_folder / "pictures/noise-ba1.png").stat().st_size
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (300, 300)


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


def test_numbers_of_the_environment_can_be_read(tmp_path: Path) -> None:
    text = Page(write_report(eventful_run(tmp_path / "run"), out=tmp_path / "page.html")).text
    for fact in ("9,830,400 samples", "3.1e+10", "2026-11-20 15:00"):
        assert fact in text
    assert "9830400sp" not in text.partition("Configuration")[0] and "31000000000" not in text
