"""What is exported gives our features in other people's libraries."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer

from maws_composer import registry
from maws_composer.checkpoints.checksums import checksum
from maws_composer.checkpoints.completeness import MARKER, write_marker
from maws_composer.cli import main
from maws_composer.models.sizes import ViTSize
from maws_composer.weights.files import SourceError
from maws_composer.weights.sources import open_encoder
from tests.weights.saved import autoencoder, classifier, image_size, same_bytes, save_run, save_wsp_run

# Heads as wide as the real ones, patches too; few of them.
TWINS = {
    "b16": ViTSize(width=128, depth=2, heads=2, patch_size=16),
    "l16": ViTSize(width=192, depth=3, heads=3, patch_size=16),
    "h14": ViTSize(width=160, depth=3, heads=2, patch_size=14),
    "2b14": ViTSize(width=240, depth=2, heads=3, patch_size=14),
    "6.5b14": ViTSize(width=256, depth=2, heads=2, patch_size=14),
}


@pytest.fixture(autouse=True)
def twins(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in TWINS.items():
        entry = registry.Entry("size", f"twin_{name}", size, "here")
        monkeypatch.setitem(registry._entries, ("size", entry.name), {entry.origin: entry})


def run_and_model(folder: Path, twin: str, qk_norm: bool = False, stage: str = "mae"):
    """The address of a run, and its encoder."""
    if stage == "wsp":
        tagger = classifier(TWINS[twin], num_classes=7)
        save_wsp_run(folder / "run", tagger, f"twin_{twin}")
        return str(folder / "run"), tagger.encoder
    model = autoencoder(TWINS[twin], qk_norm)
    save_run(folder / "run", model, f"twin_{twin}")
    return str(folder / "run"), model.encoder


def pixels(size: ViTSize) -> torch.Tensor:
    return torch.randn(2, 3, image_size(size), image_size(size), generator=torch.Generator().manual_seed(2))


def assert_same_features(theirs: torch.Tensor, ours: torch.Tensor) -> None:
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("twin", "stage"), [*((twin, "mae") for twin in TWINS), ("h14", "wsp")])
@torch.no_grad()
def test_timm_and_transformers_compute_our_features(twin: str, stage: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    run, ours = run_and_model(tmp_path, twin, stage=stage)
    images = pixels(ours.size)
    assert main(["export", run, "--to", "timm", str(tmp_path / "timm")]) == 0
    assert main(["export", run, "--to", "hf", str(tmp_path / "hf")]) == 0

    arguments = json.loads((tmp_path / "timm" / "config.json").read_text())["model_args"]
    weights = str(tmp_path / "timm" / "model.safetensors")
    for theirs in (
        timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True),
        timm.create_model("vit_base_patch16_224", checkpoint_path=weights, **arguments),
    ):
        assert_same_features(theirs.eval()(images), ours(images))

    theirs, loading = transformers.ViTModel.from_pretrained(
        tmp_path / "hf", add_pooling_layer=False, output_loading_info=True
    )
    assert not any(loading.values()), loading
    assert_same_features(theirs.eval()(images).last_hidden_state, ours.forward_features(images))


@torch.no_grad()
def test_qk_norm_goes_to_timm_and_to_nobody_else(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, ours = run_and_model(tmp_path, "b16", qk_norm=True)
    assert main(["export", run, "--to", "timm", str(tmp_path / "timm")]) == 0
    theirs = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True).eval()
    assert_same_features(theirs(pixels(ours.size)), ours(pixels(ours.size)))
    for to, out in (("hf", "hf"), ("maws", "maws.pt")):
        assert main(["export", run, "--to", to, str(tmp_path / out)]) == 2
        assert "ep0-ba10 has QK-norm: " in capsys.readouterr().err
        assert not (tmp_path / out).exists()


def test_a_maws_export_is_loaded_strictly_by_plain_timm(tmp_path: Path) -> None:
    run, ours = run_and_model(tmp_path, "h14")
    assert main(["export", run, "--to", "maws", str(tmp_path / "encoder.pt")]) == 0
    theirs = TimmVisionTransformer(img_size=56, patch_size=14, embed_dim=160, depth=3, num_heads=2, num_classes=0)
    theirs.load_state_dict(torch.load(tmp_path / "encoder.pt", weights_only=True), strict=True)
    same_bytes(theirs.state_dict(), ours.state_dict())


def test_a_checkpoint_export_has_the_whole_model_and_is_a_source(tmp_path: Path) -> None:
    run, ours = run_and_model(tmp_path, "2b14")
    assert main(["export", run, "--to", "checkpoint", str(tmp_path / "whole")]) == 0
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    assert {name.split(".")[1].removesuffix("s") for name in whole} == {
        "encoder", "mask_token", "decoder_embed", "decoder_pos_embed", "decoder_block", "decoder_norm", "decoder_pred",
    }  # fmt: skip
    encoder = open_encoder(str(tmp_path / "whole"))
    same_bytes({name: encoder.read(name) for name in encoder.shapes}, ours.state_dict())


def test_a_checkpoint_export_of_wsp_has_its_head_which_the_next_stage_leaves(tmp_path: Path) -> None:
    run, ours = run_and_model(tmp_path, "b16", stage="wsp")
    assert main(["export", run, "--to", "checkpoint", str(tmp_path / "whole")]) == 0
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    assert {name: len(whole[name]) for name in whole if "encoder" not in name} == {
        "classifier.head.weight": 7, "classifier.head.bias": 7,
    }  # fmt: skip
    encoder = open_encoder(str(tmp_path / "whole"))
    same_bytes({name: encoder.read(name) for name in encoder.shapes}, ours.state_dict())


def test_nothing_is_replaced_and_nothing_half_written_stays(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, _ = run_and_model(tmp_path, "b16")
    (tmp_path / "there").mkdir()
    assert main(["export", run, "--to", "timm", str(tmp_path / "there")]) == 2
    assert "there  exists already; name a new one" in capsys.readouterr().err
    assert main(["export", run, "--to", "timm", "s3://bucket/encoder"]) == 2
    assert "is in object storage; name a folder on this machine" in capsys.readouterr().err
    assert main(["export", run, "--to", "maws", str(tmp_path / "encoder")]) == 2
    assert "OUT  with --to maws, expected a file such as encoder.pt" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "nowhere"), "--to", "timm", str(tmp_path / "out")]) == 2
    assert f"RUN  there is no run, checkpoint or weights at {tmp_path / 'nowhere'}" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "nowhere"), "--to", "tim", str(tmp_path / "there")]) == 2
    said = capsys.readouterr().err
    assert "3 problems" in said and "exists already" in said and "there is no run" in said
    assert "unknown exporter 'tim'; nearest is timm" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "there"]


def test_nothing_is_taken_from_a_damaged_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, _ = run_and_model(tmp_path, "b16")
    (checkpoint,) = (Path(run) / "checkpoints").iterdir()
    files = [file for file in checkpoint.iterdir() if file.name != MARKER]
    sizes, checksums = ({file.name: of(file) for file in files} for of in (lambda file: file.stat().st_size, checksum))
    write_marker(checkpoint, sizes, samples=1, world_size=1, checksums=checksums)
    shard = max(files, key=lambda file: file.stat().st_size)
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert main(["export", run, "--to", "timm", str(tmp_path / "out")]) == 2
    assert f"{checkpoint}: {shard.name} is damaged: its CRC-32 is" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(SourceError, match="is damaged"):
        encoder = open_encoder(run)
        encoder.read(next(iter(encoder.shapes)))
