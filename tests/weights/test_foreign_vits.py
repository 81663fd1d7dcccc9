"""Other people's ViTs compute in our models what they compute elsewhere, head and decoder included."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

from maws_composer.config.problems import ConfigError
from maws_composer.evaluation.encoder import load_encoder
from maws_composer.evaluation.extraction import encode
from maws_composer.models.classifier import ImageClassifier
from maws_composer.models.mae import MaskedAutoencoder, split_patches
from maws_composer.models.sizes import SIZES, DecoderSize, ViTSize
from maws_composer.models.vit import VisionTransformer
from maws_composer.stages.pixels import IMAGENET_MEAN, IMAGENET_STD, denormalize, normalize
from maws_composer.weights.sources import open_model
from tests.weights import foreign

MICRO = SIZES["vit_micro"]  # 128 wide, 4 deep, 4 heads, patches of 6
SIDE = 4
IMAGE_SIZE = SIDE * MICRO.patch_size
CLASSES = 7


def images(size: int = IMAGE_SIZE) -> Tensor:
    """Such as can be uint8, normalized."""
    return normalize(denormalize(torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(5))))


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def load(model: torch.nn.Module, file: Path) -> torch.nn.Module:
    source = open_model(str(file))
    model.load_state_dict({name: source.read(name) for name in source.shapes}, strict=True)
    return model.eval()


@torch.no_grad()
def test_mae_with_its_decoder(tmp_path: Path) -> None:
    state = foreign.mae_state(MICRO.width, MICRO.depth, MICRO.patch_size, SIDE, decoder_width=32, decoder_depth=2)
    training = {"optimizer": {"state": {}}, "epoch": 3, "args": argparse.Namespace(lr=1e-3)}
    torch.save({"model": state, **training}, tmp_path / "mae.pth")
    ours = MaskedAutoencoder(VisionTransformer(MICRO, IMAGE_SIZE), DecoderSize(32, 2, 4))
    noise = torch.randint(1000, (3, SIDE * SIDE), generator=torch.Generator().manual_seed(0))
    prediction = load(ours, tmp_path / "mae.pth")(images(), noise).prediction
    visible, hidden = split_patches(noise, 4)
    theirs = foreign.mae_prediction(state, images(), visible, MICRO.heads, decoder_heads=4)
    assert_close(prediction, theirs.gather(1, hidden.unsqueeze(-1).expand_as(prediction)))


@torch.no_grad()
def test_mae_fine_tuned_on_the_mean_of_the_patches(tmp_path: Path) -> None:
    shapes = foreign.vit_shapes(MICRO.width, MICRO.depth, MICRO.patch_size, SIDE * SIDE)
    shapes |= foreign.norm_shapes("fc_norm", MICRO.width) | foreign.linear_shapes("head", CLASSES, MICRO.width)
    state = foreign.random_state(shapes)
    torch.save({"model": state}, tmp_path / "finetuned.pth")
    feature = foreign.norm(state, "fc_norm", foreign.vit_tokens(state, images(), MICRO.heads)[:, 1:].mean(1))
    classifier = ImageClassifier(VisionTransformer(MICRO, IMAGE_SIZE, mean_pooling=True), CLASSES)
    assert_close(load(classifier, tmp_path / "finetuned.pth")(images()), foreign.linear(state, "head", feature))
    evaluated = load_encoder(str(tmp_path / "finetuned.pth"))
    assert_close(encode(evaluated, "mean_patch_token", denormalize(images())), feature)


def timm_model(**options) -> torch.nn.Module:
    torch.manual_seed(0)
    shape = {"img_size": IMAGE_SIZE, "patch_size": 6, "embed_dim": 128, "depth": 4, "num_heads": 4}
    model = timm.create_model("vit_base_patch16_224", **(shape | options))
    model.pretrained_cfg = {**model.pretrained_cfg, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}  # it has others
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


@torch.no_grad()
def test_maws_fine_tuned_is_read_and_classifies(tmp_path: Path) -> None:
    theirs = timm_model(num_classes=CLASSES)
    torch.save(theirs.state_dict(), tmp_path / "maws_ft.pt")
    ours = load(ImageClassifier(VisionTransformer(MICRO, IMAGE_SIZE), CLASSES), tmp_path / "maws_ft.pt")
    assert_close(ours(images()), theirs(images()))


@torch.no_grad()
def test_a_timm_folder_says_how_many_heads_it_has(tmp_path: Path) -> None:
    theirs = timm_model(num_classes=CLASSES, num_heads=8)
    timm.models.save_for_hf(theirs, tmp_path, model_args={"num_heads": 8})
    ours = load_encoder(str(tmp_path))
    assert ours.size == ViTSize(width=128, depth=4, heads=8, patch_size=6)
    assert_close(ours(images()), theirs.forward_head(theirs.forward_features(images()), pre_logits=True))


def test_what_changes_an_encoder_is_not_left_out_in_silence(tmp_path: Path) -> None:
    for name, options in {
        "registers": {"reg_tokens": 2},
        "scale": {"init_values": 0.1},
        "pre": {"pre_norm": True},
    }.items():
        torch.save(timm_model(num_classes=0, **options).state_dict(), tmp_path / f"{name}.pth")
        with pytest.raises(ConfigError, match=r"there, none here"):
            load_encoder(str(tmp_path / f"{name}.pth"))


def hugging_face(**options):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=128, num_hidden_layers=4, num_attention_heads=8, intermediate_size=512, image_size=IMAGE_SIZE,
        patch_size=6, hidden_dropout_prob=0.0, num_labels=CLASSES, **{"layer_norm_eps": 1e-6, **options},
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.mark.parametrize(
    "saving",
    [
        {},
        {"max_shard_size": "300KB"},
        {"safe_serialization": False},
        {"safe_serialization": False, "max_shard_size": "300KB"},
    ],
    ids=["safetensors", "safetensors shards", "bin", "bin shards"],
)
@torch.no_grad()
def test_hugging_face_folders_are_read_with_their_head(saving: dict, tmp_path: Path) -> None:
    theirs = hugging_face()
    theirs.save_pretrained(tmp_path, **saving)
    if "max_shard_size" in saving:
        (index,) = tmp_path.glob("*.index.json")
        assert len(set(json.loads(index.read_text())["weight_map"].values())) > 2
    encoder = load_encoder(str(tmp_path))
    assert encoder.size.heads == 8
    assert_close(encoder.forward_features(images()), theirs.vit(images()).last_hidden_state)
    ours = load(ImageClassifier(VisionTransformer(encoder.size, IMAGE_SIZE), CLASSES), tmp_path)
    assert_close(ours(images()), theirs(images()).logits)


def test_what_a_config_asks_for_and_we_have_not_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hugging_face(layer_norm_eps=1e-12).save_pretrained(tmp_path / "eps")
    load_encoder(str(tmp_path / "eps"))
    assert "config.json has layer_norm_eps 1e-12; ours is 1e-06" in caplog.text
    hugging_face(hidden_act="relu").save_pretrained(tmp_path / "relu")
    with pytest.raises(ConfigError, match="has the activation relu; ours is gelu"):
        load_encoder(str(tmp_path / "relu"))


@pytest.mark.parametrize("library", ["timm", "hugging face"])
@torch.no_grad()
def test_pixels_that_are_normalized_otherwise_give_the_same_features(library: str, tmp_path: Path) -> None:
    if library == "timm":
        theirs = timm_model(num_classes=0)
        theirs.pretrained_cfg = {**theirs.pretrained_cfg, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.5, 0.6)}
        timm.models.save_for_hf(theirs, tmp_path)
    else:
        theirs = hugging_face()
        theirs.save_pretrained(tmp_path)
        processor = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.5, 0.6]}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    pixels = denormalize(images())
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.5, 0.4, 0.3), (0.2, 0.5, 0.6)))
    forward = theirs if library == "timm" else lambda x: theirs.vit(x).last_hidden_state[:, 0]
    feature = encode(load_encoder(str(tmp_path)), "class_token", pixels)
    assert_close(feature, forward((pixels / 255 - mean) / std))
