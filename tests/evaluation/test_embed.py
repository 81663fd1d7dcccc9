"""`maws-composer embed`: an encoder's outputs for every image of a dataset, once, whatever happens meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from streaming import MDSWriter, StreamingDataset
from torch import Tensor

from maws_composer.data.columns import DATASET_FILE, DatasetFile
from maws_composer.data.transforms import resize_and_crop
from maws_composer.registry import lookup
from maws_composer.stages.pixels import normalize
from tests.data.shards import png
from tests.processes import ROOT, free_port
from tests.runs import kill_session
from tests.s3_server import S3Server, rclone
from tests.weights.saved import autoencoder, save_run

COUNT = 300
COLUMNS = {"image": "bytes", "id": "str", "caption": "str"}
PART = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and pictures with captions."""
    folder = tmp_path_factory.mktemp("embed")
    save_run(folder / "run", autoencoder(lookup("size", "vit_micro").builder), "vit_micro")
    write_pictures(folder / "images", COUNT)
    return folder


def write_pictures(folder: Path, count: int, broken: dict[int, dict[str, object]] | None = None) -> Path:
    with MDSWriter(out=str(folder), columns=COLUMNS, hashes=["sha1"], size_limit=1 << 13) as writer:
        for number in range(count):
            sample = {"image": png(number), "id": f"{number}", "caption": f"picture {number}"}
            writer.write(sample | (broken or {}).get(number, {}))
    return folder


def start(folder: Path, data: str, out: str, *options: str, processes: int = 1) -> subprocess.Popen[str]:
    launcher = [str(Path(sys.executable).parent / "composer"), "-n", str(processes), "--master_port", str(free_port())]
    command = [*(launcher if processes > 1 else [sys.executable]), "-m", "maws_composer.cli", "embed"]
    command += ["run", data, out, "--part-size", str(PART), "--workers", "0", "--batch-size", "7"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*command, "--scratch", str(folder / "scratch"), *options], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def embed(folder: Path, data: str, out: str, *options: str) -> tuple[int, str]:
    process = start(folder, data, out, *options)
    output = process.communicate(timeout=200)[0]
    return process.returncode, output


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """Embeddings written by one process, not interrupted."""
    code, output = embed(folder, "images", "whole")
    assert code == 0 and f"whole: {COUNT} embeddings" in output, output
    return folder / "whole"


def samples(folder: Path) -> list[dict]:
    dataset = StreamingDataset(local=str(folder), batch_size=1)
    return [dataset[number] for number in range(len(dataset))]


def by_hand(numbers: list[int]) -> Tensor:
    """What the encoder says of pictures, by itself."""
    pixels = np.stack([np.random.default_rng(n).integers(0, 256, (12, 16, 3), np.uint8) for n in numbers])
    images = torch.stack([resize_and_crop(Image.fromarray(picture), 24) for picture in pixels])
    encoder = autoencoder(lookup("size", "vit_micro").builder).encoder
    with torch.no_grad():
        return encoder.forward_features(normalize(images))[:, 0]


def test_each_image_is_embedded_once_as_the_encoder_itself_does_it(folder: Path, whole: Path) -> None:
    written = samples(whole)
    assert [sample["id"] for sample in written] == [str(number) for number in range(COUNT)]
    assert all(sample["caption"] == f"picture {sample['id']}" and "image" not in sample for sample in written)
    embeddings = np.stack([sample["image_embedding"] for sample in written])
    assert embeddings.dtype == np.float16
    expected = by_hand([*range(COUNT)])
    torch.testing.assert_close(torch.from_numpy(embeddings).float(), expected, rtol=1e-3, atol=1e-4)
    sizes = [[shard["samples"] for shard in json.loads((each / "index.json").read_text())["shards"]] for each in
             (whole, folder / "images")]  # fmt: skip
    assert sizes[0] == sizes[1] and len(sizes[0]) > 10


def test_the_dataset_says_whose_embeddings_they_are(folder: Path, whole: Path) -> None:
    about = DatasetFile.from_json((whole / DATASET_FILE).read_text())
    assert about.source == {"dataset": "images", "weights": "run/checkpoints/ep0-ba10"}
    assert about.counts["images"] == about.counts["source_images"] == COUNT and about.counts["skipped"] == 0
    assert about.encoder is not None and len(about.encoder) == 64
    code, output = embed(folder, "images", "whole")
    assert code == 0 and "whole was finished before" in output


def test_cut_off_with_two_processes_it_goes_on_with_one_to_the_same_bytes(folder: Path, whole: Path) -> None:
    process = start(folder, "images", "cut", processes=2)
    state = folder / "cut" / ".conversion"
    until = time.monotonic() + 150
    while not (finished := [*state.glob("part-*.json")]):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kill_session(process.pid)
    assert not (folder / "cut" / "index.json").exists()
    before = {path: path.stat().st_mtime_ns for marker in finished for path in (folder / "cut" / marker.stem).iterdir()}
    code, output = embed(folder, "images", "cut")
    assert code == 0, output
    assert before and all(path.stat().st_mtime_ns == changed for path, changed in before.items())
    assert contents(folder / "cut") == contents(whole)


@pytest.mark.slow
@pytest.mark.skipif(rclone() is None, reason="rclone is not installed")
def test_in_object_storage_they_are_the_same_and_a_damaged_shard_is_named(
    folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with S3Server(tmp_path / "storage") as server:
        bucket = server.bucket("bucket")
        shutil.copytree(folder / "images", bucket / "images")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        shard = bucket / "images" / "shard.00009.mds"
        sound = shard.read_bytes()
        shard.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
        code, output = embed(folder, "s3://bucket/images", "s3://bucket/embeddings")
        told = " ".join(output.split())
        assert code == 2 and f"DATA s3://bucket/images/{shard.name} is damaged: its sha1 is not that of the" in told
        assert not (bucket / "embeddings" / "index.json").exists()
        shard.write_bytes(sound)
        code, output = embed(folder, "s3://bucket/images", "s3://bucket/embeddings")
        assert code == 0, output
        arrived, local = contents(bucket / "embeddings"), contents(whole)
        assert all(arrived[name] == local[name] for name in local if name != DATASET_FILE)
        assert not [*(folder / "scratch").glob("embed-*")]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_what_cannot_be_used_is_left_out_and_named_and_much_of_it_is_refused(folder: Path) -> None:
    broken = {3: {"image": b"no picture"}, 8: {"caption": " "}}
    write_pictures(folder / "broken", 40, broken)
    code, output = embed(folder, "broken", "few")
    assert code == 2
    assert "2 of 40 samples cannot be used so far, more than --max-bad 0.01" in " ".join(output.split())
    assert not (folder / "few" / "index.json").exists()
    code, output = embed(folder, "broken", "few", "--max-bad", "0.1", "--keep-images", "--overwrite")
    assert code == 0, output
    assert "2 left out (see skipped.jsonl): the order is not that of the images" in output
    assert "3 is left out: image cannot be decoded: not an image of a known format (sample 3 of broken/" in output
    written = samples(folder / "few")
    assert [int(sample["id"]) for sample in written] == [n for n in range(40) if n not in broken]
    assert all(sample["image"] == png(int(sample["id"])) for sample in written)
    skipped = [json.loads(line) for line in (folder / "few" / "skipped.jsonl").read_text().splitlines()]
    assert [(record["id"], record["reason"]) for record in skipped] == [
        ("3", "image cannot be decoded: not an image of a known format"),
        ("8", "caption is empty"),
    ]


@pytest.mark.slow
def test_a_folder_with_embeddings_of_another_encoder_is_refused(folder: Path, whole: Path) -> None:
    about = DatasetFile.from_json((whole / DATASET_FILE).read_text())
    model = autoencoder(lookup("size", "vit_micro").builder)
    with torch.no_grad():
        model.encoder.norm.bias[0] += 1
    save_run(folder / "other", model, "vit_micro")
    process = subprocess.run(
        [sys.executable, "-m", "maws_composer.cli", "embed", "other", "images", "whole", "--part-size", str(PART)],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert process.returncode == 2
    told = " ".join(process.stderr.split())
    assert "whole holds something else; choose another, or --overwrite: encoder was " in told
    assert f"encoder was {about.encoder}, is " in told
