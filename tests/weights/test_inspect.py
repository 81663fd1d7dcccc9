"""`maws-composer inspect` says what weights are, and runs nothing."""

from __future__ import annotations

import argparse
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from maws_composer.cli import main
from maws_composer.models.sizes import SIZES
from tests.weights import foreign
from tests.weights.saved import autoencoder, save_run
from tests.weights.test_maws_clip import theirs as maws_clip
from tests.weights.test_sources import Hostile

MICRO = SIZES["vit_micro"]


def inspect(file: Path, capsys: pytest.CaptureFixture) -> dict[str, str]:
    """First word of a line -> the rest; lines that go on are part of it."""
    assert main(["inspect", str(file)]) == 0
    said: dict[str, str] = {}
    for line in capsys.readouterr().out.splitlines():
        key = line[:11].strip() or list(said)[-1]
        said[key] = f"{said[key]}; {line[12:]}" if key in said else line[12:]
    return said


def test_a_file_of_the_mae_authors(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    state = foreign.mae_state(MICRO.width, MICRO.depth, MICRO.patch_size, 4, decoder_width=32, decoder_depth=1)
    file = tmp_path / "mae.pth"
    training = {"optimizer": {"state": {}}, "args": argparse.Namespace(lr=1e-3)}
    torch.save({"model": state | {"surprise": torch.ones(5).half()}, **training}, file)
    encoder = sum(t.numel() for name, t in state.items() if "decoder" not in name and name != "mask_token")
    decoder = sum(t.numel() for name, t in state.items() if "decoder" in name)
    assert inspect(file, capsys) == {
        "at": str(file),
        "format": "torch.save",
        "size": f"{file.stat().st_size:,} bytes",
        "layout": "facebookresearch/mae, pretraining with decoder",
        "stage": "mae",
        "encoder": "vit_micro: 128 wide, 4 deep, patches of 6, images of 24 px",
        "parameters": f"{encoder + decoder + 37:,}; {encoder:,} encoder; {decoder:,} decoder; 32 mask token; 5 other",
        "dtype": f"float32 ({len(state)} tensors), float16 (1 tensors)",
        "beside": "optimizer, args (not read)",
        "unknown": "surprise",
    }


def test_a_run_its_export_and_maws_clip(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    checkpoint = save_run(tmp_path / "run", autoencoder(MICRO), "vit_micro")
    run = inspect(tmp_path / "run", capsys)
    assert (run["at"], run["stage"], run["unknown"]) == (str(checkpoint), "mae", "nothing")
    assert run["format"] == "checkpoint of torch.distributed.checkpoint, sharded"
    assert main(["export", str(tmp_path / "run"), "--to", "hf", str(tmp_path / "hf")]) == 0
    capsys.readouterr()
    exported = inspect(tmp_path / "hf", capsys)
    assert (exported["layout"], exported["stage"]) == ("Hugging Face ViT", "not said: an encoder alone")
    assert exported["encoder"] == run["encoder"]

    _, state = maws_clip()
    torch.save(state, tmp_path / "clip.pt")
    released = inspect(tmp_path / "clip.pt", capsys)
    assert (released["layout"], released["stage"]) == ("maws_clip, text tower with torchtext's names", "lit")
    assert released["unknown"] == "nothing"


def test_what_nobody_knows_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save_file({f"conv{number}.weight": torch.ones(2) for number in range(10)}, tmp_path / "resnet.safetensors")
    said = inspect(tmp_path / "resnet.safetensors", capsys)
    assert said["layout"] == "none that we know"
    assert said["unknown"] == ", ".join(f"conv{number}.weight" for number in range(8)) + ", ..."


def test_pickled_code_is_refused_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save({"model": {"w": torch.ones(1)}, "args": Hostile(tmp_path / "made")}, tmp_path / "hostile.pth")
    (tmp_path / "hostile.bin").write_bytes(pickle.dumps(Hostile(tmp_path / "made")))
    checkpoint = save_run(tmp_path / "run", autoencoder(MICRO), "vit_micro")
    metadata = pickle.dumps(Hostile(tmp_path / "made"))
    size = (checkpoint / ".metadata").stat().st_size
    (checkpoint / ".metadata").write_bytes(metadata + b"\0" * (size - len(metadata)))
    (tmp_path / "shards").mkdir()
    index = {"weight_map": {"w": "../hostile.safetensors"}}
    (tmp_path / "shards" / "model.safetensors.index.json").write_text(json.dumps(index))
    for file, reason in {
        "hostile.pth": "hostile.pth asks for posix.mkdir, which no weights need; it was not run",
        "hostile.bin": "hostile.bin is in torch's format before 1.6: load it with weights_only=True, and save it anew",
        "shards": "model.safetensors.index.json names ../hostile.safetensors, outside of its folder",
        "run/checkpoints/ep0-ba10": ".metadata asks for posix.mkdir, which no checkpoint needs",
    }.items():
        assert main(["inspect", str(tmp_path / file)]) == 2
        assert reason in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
