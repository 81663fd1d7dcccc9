"""What is evaluated may be a run, an export of it, or a file that somebody released."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from maws_composer import registry
from maws_composer.cli import main
from maws_composer.config.problems import ConfigError
from maws_composer.evaluation.encoder import load_encoder
from maws_composer.models.sizes import ViTSize
from tests.weights.saved import autoencoder, image_size, same_bytes, save_run

SIZE = ViTSize(width=96, depth=2, heads=2, patch_size=4)
OUT = {"timm": "exported", "hf": "exported", "checkpoint": "exported", "maws": "encoder.pt"}


def register(monkeypatch: pytest.MonkeyPatch, name: str, size: ViTSize) -> None:
    entry = registry.Entry("size", name, size, "here")
    monkeypatch.setitem(registry._entries, ("size", entry.name), {entry.origin: entry})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    register(monkeypatch, "twin", SIZE)
    save_run(tmp_path / "run", autoencoder(SIZE), "twin")
    return tmp_path / "run"


@pytest.mark.parametrize("to", OUT)
def test_an_export_is_the_run_itself(to: str, run: Path, tmp_path: Path) -> None:
    ours = load_encoder(str(run))
    assert main(["export", str(run), "--to", to, str(tmp_path / OUT[to])]) == 0
    exported = load_encoder(str(tmp_path / OUT[to]))
    same_bytes(exported.state_dict(), ours.state_dict())
    images = torch.randn(2, 3, image_size(SIZE), image_size(SIZE))
    assert torch.equal(exported(images), ours(images)) and exported.size == SIZE  # heads are no tensors


def test_heads_are_those_of_config_json_before_those_of_a_registered_size(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for to, out in OUT.items():
        if to in ("timm", "maws"):
            assert main(["export", str(run), "--to", to, str(tmp_path / out)]) == 0
    register(monkeypatch, "twin", ViTSize(width=96, depth=2, heads=3, patch_size=4))
    assert load_encoder(str(tmp_path / "exported")).size == SIZE
    assert load_encoder(str(tmp_path / "encoder.pt")).size.heads == 3
    register(monkeypatch, "other", SIZE)
    with pytest.raises(ConfigError, match=r"96 wide, 2 deep, with patches of 4: 2 numbers of heads are known for that"):
        load_encoder(str(tmp_path / "encoder.pt"))
    for name in ("twin", "other"):
        register(monkeypatch, name, ViTSize(width=128, depth=2, heads=2, patch_size=4))
    with pytest.raises(ConfigError, match=r"no number of heads is known for that; register its size"):
        load_encoder(str(tmp_path / "encoder.pt"))


def test_a_vit_with_more_in_it_is_refused(run: Path, tmp_path: Path) -> None:
    state = load_encoder(str(run)).state_dict()
    state["blocks.0.ls1.gamma"] = torch.ones(96)  # of timm's ViTs with LayerScale
    torch.save(state, tmp_path / "scaled.pt")
    with pytest.raises(ConfigError, match=r"blocks\.0\.ls1\.gamma: 96 there, none here"):
        load_encoder(str(tmp_path / "scaled.pt"))
