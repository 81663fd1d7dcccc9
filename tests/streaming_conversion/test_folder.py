"""`python -m streaming_conversion folder SRC DST`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from streaming import LocalDataset, MDSWriter
from streaming.base.util import merge_index

from streaming_conversion.cli import main
from tests.streaming_conversion.conftest import Convert, content, save_images, write_metadata


def samples(folder: Path) -> list[dict[str, Any]]:
    dataset = LocalDataset(local=str(folder))
    return [dataset[index] for index in range(len(dataset))]


def failure(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a conversion in this process says as it fails."""
    assert main([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err


def test_images_are_kept_byte_by_byte_in_the_order_of_their_paths(images: Path, tmp_path: Path) -> None:
    (images / ".hidden.jpg").write_bytes(b"left out")
    (images / "notes.txt").write_bytes(b"left out")
    assert main(["folder", str(images), str(tmp_path / "mds"), "--part-size", "25", "--processes", "1"]) == 0
    found = samples(tmp_path / "mds")
    names = sorted(str(path.relative_to(images)) for path in images.glob("*/*"))
    assert [sample["id"] for sample in found] == names
    assert all(sample.keys() == {"id", "image"} for sample in found)
    assert all(sample["image"] == (images / sample["id"]).read_bytes() for sample in found)


def test_hashtags_and_captions_come_from_metadata(images: Path, tmp_path: Path) -> None:
    names = sorted(str(path.relative_to(images)) for path in images.glob("*/*"))
    lines: list[dict[str, Any]] = [{"file_name": name} for name in names]
    lines[0] |= {"id": "first", "hashtags": ["cat", "größe"], "caption": "A cat 🐈."}
    write_metadata(images, lines)
    assert main(["folder", str(images), str(tmp_path / "mds"), "--processes", "1"]) == 0
    found = samples(tmp_path / "mds")
    assert (found[0]["id"], found[0]["hashtags"], found[0]["caption"]) == ("first", ["cat", "größe"], "A cat 🐈.")
    assert (found[1]["id"], found[1]["hashtags"], found[1]["caption"]) == (names[1], [], "")
    about = json.loads((tmp_path / "mds/dataset.json").read_text())
    assert about["columns"] == {"image": "bytes", "id": "str", "hashtags": "json", "caption": "str"}
    assert about["counts"]["without_hashtags"] == about["counts"]["without_caption"] == 59


def test_output_is_the_same_for_one_and_two_processes(images: Path, convert: Convert, tmp_path: Path) -> None:
    for processes in (1, 2):
        done = convert("folder", "photos", f"mds{processes}", "--part-size", 7, "--processes", processes)
        assert done.returncode == 0, done.stderr
        assert f"mds{processes}: 60 images, " in done.stdout and "in 9 shards; " in done.stdout
    one = content(tmp_path / "mds1")
    assert one == content(tmp_path / "mds2")
    assert "index.json" in one and not any(name.startswith(".conversion") for name in one)


def test_root_index_is_the_one_that_streaming_would_merge(images: Path, tmp_path: Path) -> None:
    mds = tmp_path / "mds"
    assert main(["folder", str(images), str(mds), "--part-size", "25", "--shard-size", "16kb", "--processes", "1"]) == 0
    ours = json.loads((mds / "index.json").read_text())
    assert len(ours["shards"]) > 3
    assert all(len(shard["raw_data"]["hashes"]["sha1"]) == 40 for shard in ours["shards"])
    (mds / "index.json").unlink()
    merge_index(str(mds), keep_local=True)
    assert json.loads((mds / "index.json").read_text()) == ours


def test_undecodable_images_are_listed_and_left_out(images: Path, tmp_path: Path) -> None:
    (images / "a/broken.png").write_bytes(b"not a picture")
    whole = (images / "a/0000.jpg").read_bytes()
    (images / "b/cut.jpg").write_bytes(whole[: len(whole) // 2])
    assert main(["folder", str(images), str(tmp_path / "mds"), "--max-bad", "0.1", "--processes", "1"]) == 0
    ids = [sample["id"] for sample in samples(tmp_path / "mds")]
    assert len(ids) == 60 and "a/broken.png" not in ids and "b/cut.jpg" not in ids
    skipped = [json.loads(line) for line in (tmp_path / "mds/skipped.jsonl").read_text().splitlines()]
    assert skipped[0] == {
        "id": "a/broken.png",
        "source": "a/broken.png",
        "reason": "does not decode (UnidentifiedImageError)",
    }
    assert skipped[1]["id"] == "b/cut.jpg" and "truncated" in skipped[1]["reason"].lower()
    assert json.loads((tmp_path / "mds/dataset.json").read_text())["counts"]["skipped"] == 2


def test_too_many_undecodable_images_end_it_and_more_may_be_allowed_then(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "a/broken.png").write_bytes(b"not a picture")
    mds = tmp_path / "mds"
    error = failure(capsys, "folder", images, mds, "--processes", 1)
    assert error.endswith(
        f"1 of 61 images cannot be used so far, more than --max-bad 0.01; all of them are in {mds}/skipped.jsonl; "
        "nothing was finished:\n\n  a/broken.png: does not decode (UnidentifiedImageError)\n"
    )
    assert not (mds / "index.json").exists()
    assert main(["folder", str(images), str(mds), "--max-bad", "0.02", "--processes", "1"]) == 0
    assert len(samples(mds)) == 60


def test_large_images_are_skipped_and_verification_can_be_left_out(images: Path, tmp_path: Path) -> None:
    (images / "a/broken.png").write_bytes(b"not a picture")
    assert main(["folder", str(images), str(tmp_path / "all"), "--no-verify", "--processes", "1"]) == 0
    assert len(samples(tmp_path / "all")) == 61
    options = ["--max-pixels", "100", "--max-bad", "1", "--processes", "1"]
    assert main(["folder", str(images), str(tmp_path / "none"), *options]) == 2
    assert not (tmp_path / "none/index.json").exists()
    reasons = (tmp_path / "none/skipped.jsonl").read_text()
    assert reasons.count('"24 x 24 pixels are more than --max-pixels 100"') == 60


def test_every_mistake_in_the_metadata_is_told_at_once(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in images.glob("*/00[1-9]*"):
        path.unlink()  # ten are left
    names = sorted(str(path.relative_to(images)) for path in images.glob("*/*"))
    lines = [json.dumps({"file_name": name}) for name in names[:7]]
    lines[1:1] = [
        '{"file_name": "a/0002.webp", "captio',
        '["a/0002.webp"]',
        '{"caption": "whose?"}',
        '{"file_name": "a/absent.jpg"}',
        '{"file_name": "a/0000.jpg"}',
        '{"file_name": "b/0009.jpg", "hashtags": "cat"}',
        '{"file_name": "b/0009.jpg", "id": ""}',
    ]
    metadata = images / "metadata.jsonl"
    metadata.write_text("\n".join(lines) + "\n" + json.dumps({"file_name": names[7], "id": names[1]}) + "\n")
    error = failure(capsys, "folder", images, tmp_path / "mds")
    assert (
        error
        == f"""{images} cannot be converted: 9 problems:

  {metadata}, line 2: bad JSON: Unterminated string starting at (column 30)
  {metadata}, line 3: not a JSON object: ['a/0002.webp']
  {metadata}, line 4: file_name is missing
  {metadata}, line 5: file_name "a/absent.jpg" is not an image of the folder
  {metadata}, line 6: file_name "a/0000.jpg" is on line 1 already
  {metadata}, line 7: hashtags is not a list of strings: 'cat'
  {metadata}, line 8: id is not a string with something in it: ''
  id "{names[1]}" belongs to {names[1]} (line 9) and to {names[7]} (line 15)
  {images}/b/0007.png: no line in {metadata}
"""
    )
    assert not (tmp_path / "mds").exists()


def test_of_many_problems_twenty_are_shown(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_metadata(images, [])
    error = failure(capsys, "folder", images, tmp_path / "mds").splitlines()
    assert error[0] == f"{images} cannot be converted: 60 problems:"
    assert len(error) == 23 and error[-1] == "  … and 40 more"


def test_unknown_metadata_keys_are_named(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = sorted(str(path.relative_to(images)) for path in images.glob("*/*"))
    metadata = write_metadata(images, [{"file_name": name, "hashtag": ["x"]} for name in names])
    assert main(["folder", str(images), str(tmp_path / "mds"), "--processes", "1"]) == 0
    assert f'{metadata}: key "hashtag" ignored (60 lines; nearest is hashtags)\n' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["folder", "absent", "mds"], "absent does not exist\n"),
        (["folder", "empty", "mds"], "empty holds no images (.avif, .bmp, .gif, .jfif, .jpe, .jpeg, .jpg, .png, .tif, "
         ".tiff, .webp)\n"),
        (["folder", "photos", "mds", "--metadata", "absent.jsonl"], "absent.jsonl cannot be read: No such file or "
         "directory\n"),
        (["folder", "photos", "full"], "full is not empty (mine.txt); choose a new folder\n"),
        (["folder", "photos", "ftp://h/x"], "ftp://h/x cannot be written to: Invalid Cloud provider prefix: ftp.\n"),
    ],
)  # fmt: skip
def test_mistakes_have_one_clear_sentence(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    assert failure(capsys, *arguments) == message


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--shard-size", "5gb"), "argument --shard-size: 5gb is not between 1kb and 4gb (MDS counts in 32 bits)"),
        (("--shard-size", "many"), "argument --shard-size: many is not a size such as 64mb, 512kb, 1gb"),
        (("--processes", "0"), "argument --processes: 0 is not a whole number of at least 1"),
        (("--max-bad", "2"), "argument --max-bad: 2 is not between 0 and 1"),
    ],
)
def test_bad_options_are_refused(option: tuple[str, str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["folder", "a", "b", *option])
    assert capsys.readouterr().err.splitlines()[-1].endswith(message)


def test_a_picture_larger_than_a_shard_makes_no_empty_shard(tmp_path: Path) -> None:
    save_images(tmp_path / "photos", 3, size=64)
    options = ["--shard-size", "1kb", "--processes", "1"]
    assert main(["folder", str(tmp_path / "photos"), str(tmp_path / "mds"), *options]) == 0
    shards = json.loads((tmp_path / "mds/index.json").read_text())["shards"]
    assert [shard["samples"] for shard in shards] == [1, 1, 1]


def test_streaming_still_needs_our_cure_for_empty_shards(tmp_path: Path) -> None:
    """When this fails, `PartWriter.flush_shard` can go."""
    with MDSWriter(columns={"image": "bytes"}, out=str(tmp_path / "mds"), size_limit=1024) as writer:
        writer.write({"image": bytes(2048)})
    shards = json.loads((tmp_path / "mds/index.json").read_text())["shards"]
    assert [shard["samples"] for shard in shards] == [0, 1]


def test_a_folder_linked_into_itself_is_refused(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "a/loop").symlink_to(images)
    assert (
        failure(capsys, "folder", images, tmp_path / "mds") == f"{images}/a/loop is a link to a folder that holds it\n"
    )
