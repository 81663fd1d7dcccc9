"""An encoder is found wherever it lies; nothing else is read, and nothing is run."""

from __future__ import annotations

import argparse
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from cloudpathlib import S3Client
from safetensors.torch import save_file
from torch import Tensor

from maws_composer.checkpoints import ranges
from maws_composer.models.sizes import ViTSize
from maws_composer.weights.sources import SourceError, open_encoder
from tests.s3_server import S3Server, rclone
from tests.weights.saved import autoencoder, same_bytes, save_run

SIZE = ViTSize(width=64, depth=2, heads=2, patch_size=4)
MODEL = autoencoder(SIZE)
ENCODER = MODEL.encoder.state_dict()


def read(address: str | Path) -> dict[str, Tensor]:
    encoder = open_encoder(str(address))
    return {name: encoder.read(name) for name in encoder.shapes}


def released_mae(file: Path) -> Path:
    """facebookresearch/mae, as its training script saves it: names without "encoder."."""
    state = {name.removeprefix("encoder."): tensor for name, tensor in MODEL.state_dict().items()}
    optimizer = {"state": {0: {"exp_avg": torch.ones(1000)}}}
    torch.save({"model": state, "optimizer": optimizer, "epoch": 3, "args": argparse.Namespace(lr=1e-3)}, file)
    return file


def released_maws(file: Path) -> Path:
    torch.save({**ENCODER, "head.weight": torch.ones(10, 64), "head.bias": torch.ones(10)}, file)
    return file


def released_maws_clip(file: Path) -> Path:
    text = "text_encoder.encoder.transformer."
    state = {f"vision_encoder.{name}": tensor for name, tensor in ENCODER.items()}
    towers = {
        "logit_scale": torch.ones(()),
        "vision_projection": torch.ones(64, 8),
        "text_projection": torch.ones(4, 8),
    }
    torch.save({**towers, **state, f"{text}token_embedding.weight": torch.ones(9, 4)}, file)
    return file


@pytest.mark.parametrize(
    ("release", "left"),
    [(released_mae, 20), (released_maws, 2), (released_maws_clip, 4)],
    ids=["mae", "maws", "maws_clip"],
)
def test_released_layouts_are_recognized(release, left: int, tmp_path: Path) -> None:
    file = release(tmp_path / "released.pth")
    same_bytes(read(file), ENCODER)
    assert len(open_encoder(str(file)).left) == left


def test_safetensors_keep_their_dtype(tmp_path: Path) -> None:
    half = {name: tensor.bfloat16() for name, tensor in ENCODER.items()}
    save_file(half, tmp_path / "model.safetensors")
    same_bytes(read(tmp_path / "model.safetensors"), half)
    same_bytes(read(tmp_path), half)


@pytest.mark.skipif(rclone() is None, reason="rclone, of the extra `dev`, is not installed")
def test_from_object_storage_only_the_encoder_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = save_run(tmp_path / "run", MODEL, "any")
    travelled: list[int] = []
    request, download = ranges._request, S3Client._download_file

    def counted_request(path, offset, length):
        travelled.append(length)
        return request(path, offset, length)

    def counted_download(self, path, local):
        travelled.append(path.stat().st_size)
        return download(self, path, local)

    monkeypatch.setattr(ranges, "_request", counted_request)
    monkeypatch.setattr(S3Client, "_download_file", counted_download)
    with S3Server(tmp_path / "s3") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        bucket = server.bucket("bucket")
        shutil.copytree(tmp_path / "run", bucket / "run")
        released_mae(bucket / "mae.pth")
        save_file(ENCODER, bucket / "mae.safetensors")

        open_encoder("s3://bucket/run")
        looked = sum(travelled)
        assert looked < (checkpoint / ".metadata").stat().st_size + 10_000
        same_bytes(read("s3://bucket/run"), ENCODER)
        weights = sum(tensor.nbytes for tensor in ENCODER.values())
        per_tensor = 2_000  # of torch.save's own
        assert sum(travelled) - looked < looked + weights + per_tensor * len(ENCODER)
        assert 3 * weights < sum(path.stat().st_size for path in checkpoint.iterdir())
        same_bytes(read("s3://bucket/mae.pth"), ENCODER)
        same_bytes(read("s3://bucket/mae.safetensors"), ENCODER)
        with pytest.raises(SourceError, match=r"^there is no run, checkpoint or weights at s3://bucket/none$"):
            open_encoder("s3://bucket/none")


def test_a_truncated_file_is_no_source(tmp_path: Path) -> None:
    save_file(ENCODER, tmp_path / "a.safetensors")
    released_maws(tmp_path / "a.pth")
    for name in ("a.safetensors", "a.pth"):
        os.truncate(tmp_path / name, (tmp_path / name).stat().st_size - 1000)
    with pytest.raises(SourceError, match=r"a\.safetensors was cut off: it has [\d,]+ of [\d,]+ bytes"):
        open_encoder(str(tmp_path / "a.safetensors"))
    with pytest.raises(SourceError, match=r"a\.pth is not readable: "):
        open_encoder(str(tmp_path / "a.pth"))


def test_a_truncated_checkpoint_is_passed_over_or_refused(tmp_path: Path) -> None:
    checkpoint = save_run(tmp_path / "run", MODEL, "any")
    newer = shutil.copytree(checkpoint, checkpoint.with_name("ep0-ba20"))
    os.truncate(newer / "__0_0.distcp", 1000)
    assert open_encoder(str(tmp_path / "run")).address == str(checkpoint)
    size = (checkpoint / "__0_0.distcp").stat().st_size
    reason = f"{newer} is no complete checkpoint: __0_0.distcp has 1,000 bytes; {size:,} bytes were written"
    with pytest.raises(SourceError, match=f"^{re.escape(reason)}$"):
        open_encoder(str(newer))
    shutil.rmtree(checkpoint)
    with pytest.raises(SourceError, match=r"^there is no complete checkpoint at .*/run\n.*/ep0-ba20: __0_0.distcp has"):
        open_encoder(str(tmp_path / "run"))


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_a_file_that_runs_code_is_refused(tmp_path: Path) -> None:
    torch.save({"model": ENCODER, "args": Hostile(tmp_path / "made")}, tmp_path / "hostile.pth")
    with pytest.raises(
        SourceError, match=r"hostile\.pth asks for posix\.mkdir, which no weights need; it was not run$"
    ):
        open_encoder(str(tmp_path / "hostile.pth"))
    assert not (tmp_path / "made").exists()


def test_what_is_no_encoder_says_what_it_is(tmp_path: Path) -> None:
    save_file({"embeddings.cls_token": torch.ones(1), "layernorm.bias": torch.ones(1)}, tmp_path / "hf.safetensors")
    message = (
        f"{tmp_path}/hf.safetensors has no ViT with the names of timm or Hugging Face; "
        "it has embeddings.cls_token, layernorm.bias ..."
    )
    with pytest.raises(SourceError, match=f"^{re.escape(message)}$"):
        open_encoder(str(tmp_path / "hf.safetensors"))
    with pytest.raises(SourceError, match=r"^http://host/x: expected a local folder, s3://, gs:// or az://$"):
        open_encoder("http://host/x")
