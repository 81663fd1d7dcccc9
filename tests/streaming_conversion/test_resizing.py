"""With --resize larger pictures are stored smaller, as Pillow makes them, and all else stays."""

from __future__ import annotations

import io
import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageCms
from streaming import StreamingDataset

from maws_composer.data.columns import DatasetFile
from maws_composer.data.decode import UndecodableImageError, decode
from streaming_conversion.cli import main
from streaming_conversion.resizing import Resizing
from tests.streaming_conversion.conftest import content, save_images

SIDE = 96


def photograph(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    with Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg") as image:
        return image.resize(size, Image.Resampling.LANCZOS).convert(mode)


def converted(folder: Path, *options: str) -> dict[str, bytes]:
    """Id -> stored bytes of the pictures in `folder`, after a conversion with --resize."""
    mds = folder.parent / f"{folder.name}-mds"
    arguments = ["folder", str(folder), str(mds), "--resize", str(SIDE), "--processes", "1", "--overwrite", *options]
    assert main(arguments) == 0
    return {sample["id"]: sample["image"] for sample in StreamingDataset(local=str(mds), batch_size=1)}


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def smaller(image: Image.Image, size: tuple[int, int], quality: int = 90) -> Image.Image:
    """By Pillow alone, from pixels to a JPEG and back."""
    jpeg = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(jpeg, "JPEG", quality=quality)
    return opened(jpeg.getvalue())


def dataset_file(mds: Path) -> DatasetFile:
    return DatasetFile.from_json((mds / "dataset.json").read_bytes())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


def test_larger_pictures_are_pillows_own_resizing_and_smaller_ones_their_own_bytes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph((400, 300)).save(folder / "wide.jpg", quality=92)
    photograph((300, 401)).save(folder / "tall.png")
    photograph((SIDE, 500)).save(folder / "narrow.jpg")
    photograph((40, 30)).save(folder / "small.webp")
    stored = converted(folder, "--quality", "85")
    for name, size in (("wide.jpg", (128, 96)), ("tall.png", (96, 128))):
        expected = smaller(Image.open(folder / name), size, quality=85)
        assert opened(stored[name]).size == size and np.array_equal(opened(stored[name]), expected)
    for name in ("narrow.jpg", "small.webp"):
        assert stored[name] == (folder / name).read_bytes()
    assert "4 images, 2 of them resized, " in capsys.readouterr().out
    assert dataset_file(folder.parent / "photos-mds").counts["resized"] == 2


def test_a_resized_picture_is_shown_as_upright_and_trained_on_as_before(folder: Path) -> None:
    sideways = Image.Exif()
    sideways[0x0112], sideways[0x010F] = 6, "a camera"  # orientation, maker
    photograph((400, 300)).save(folder / "turned.jpg", quality=95, exif=sideways)
    made = opened(converted(folder)["turned.jpg"])
    assert dict(made.getexif()) == {0x0112: 6}
    assert made.size == (128, 96)  # stored as it was, turned by whoever shows it
    trained_on_before = decode((folder / "turned.jpg").read_bytes(), 10**9)
    assert np.array_equal(made, smaller(trained_on_before, (128, 96)))


def test_colors_stay_what_they_are(folder: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photograph((400, 300)).save(folder / "profile.jpg", icc_profile=profile)
    photograph((400, 300), "L").save(folder / "grey.jpg")
    of_print = profile[:16] + b"CMYK" + profile[20:]
    photograph((400, 300), "CMYK").save(folder / "print.jpg", icc_profile=of_print)
    clear = photograph((400, 300)).convert("RGBA")
    clear.putalpha(0)
    clear.save(folder / "clear.png")
    made = {name: opened(data) for name, data in converted(folder).items()}
    assert made["profile.jpg"].info["icc_profile"] == profile
    assert made["grey.jpg"].mode == "L" and "icc_profile" not in made["print.jpg"].info
    assert np.asarray(made["clear.png"]).min() == 255
    trained_on_before = decode((folder / "print.jpg").read_bytes(), 10**9)
    assert np.array_equal(made["print.jpg"], smaller(trained_on_before, (128, 96)))


def test_what_cannot_be_resized_is_left_out_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**9)  # which `decode` sets, put back for other tests
    photograph((400, 300)).save(folder / "whole.jpg")
    data = (folder / "whole.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(data[:-300])
    (folder / "text.jpg").write_bytes(b"no picture")
    assert set(converted(folder, "--max-bad", "1")) == {"whole.jpg"}
    lines = (folder.parent / "photos-mds/skipped.jsonl").read_text().splitlines()
    reasons = {record["id"]: record["reason"] for record in map(json.loads, lines)}
    assert reasons["text.jpg"] == "cannot be resized: not an image of a known format"
    assert reasons["cut.jpg"].startswith("cannot be resized: ") and "truncated" in reasons["cut.jpg"]
    with pytest.raises(UndecodableImageError, match="400 x 300 pixels, the limit is 100000"):
        Resizing(SIDE, 90)(data, 100_000)


def test_training_is_told_also_after_labelling(folder: Path, tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        (folder / name).mkdir()
        photograph((200, 150)).save(folder / name / "1.jpg")
    places = {reader: tmp_path / reader for reader in ("imagefolder", "folder", "label")}
    common = ["--resize", str(SIDE), "--processes", "1"]
    assert main(["imagefolder", str(folder), str(places["imagefolder"]), *common]) == 0
    lines = [{"file_name": f"{name}/1.jpg", "hashtags": [name]} for name in ("cats", "dogs")]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["folder", str(folder), str(places["folder"]), *common]) == 0
    label = ["label", str(places["folder"]), str(places["label"]), "--canonical", "none", "--processes", "1"]
    assert main(label) == 0
    assert [dataset_file(place).shortest_side for place in places.values()] == [SIDE] * 3
    assert main([*label[:2], str(tmp_path / "again"), *label[3:], "--resize", "64"]) == 0
    assert dataset_file(tmp_path / "again").shortest_side == 64


def test_an_interrupted_conversion_goes_on_with_the_same_size_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = save_images(tmp_path / "photos", 30, size=120)
    original = Path.read_bytes

    def fail(path: Path) -> bytes:
        if str(path).endswith(names[-1]):
            raise PermissionError(13, "Permission denied")
        return original(path)

    def convert(place: str, *options: str) -> int:
        arguments = ["--part-size", "10", "--processes", "1", "--resize", str(SIDE), *options]
        return main(["folder", str(tmp_path / "photos"), str(tmp_path / place), *arguments])

    monkeypatch.setattr(Path, "read_bytes", fail)
    assert convert("mds") == 2
    monkeypatch.undo()
    capsys.readouterr()
    assert convert("mds", "--quality", "80", "--resize", "64") == 2
    assert capsys.readouterr().err.endswith(":\n\n  quality was 90, is 80\n  resize was 96, is 64\n")
    assert convert("mds") == 0 and convert("whole") == 0
    assert content(tmp_path / "mds") == content(tmp_path / "whole")


def test_a_quality_without_a_size_would_do_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["folder", str(folder), str(folder.parent / "mds"), "--quality", "80"]) == 2
    assert "--quality would do nothing without --resize" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["folder", str(folder), str(folder.parent / "mds"), "--resize", "9", "--quality", "101"])
