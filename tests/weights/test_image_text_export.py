"""What LiT trained is computed by transformers alone, and read as MAWS-CLIP's weights are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from maws_composer.cli import main
from maws_composer.config.problems import ConfigError
from maws_composer.evaluation.towers import find_image_text, load_towers
from maws_composer.models.clip import ImageTextModel
from maws_composer.models.sizes import SIZES
from maws_composer.models.text_tower import TextSettings, build_text_tower
from maws_composer.models.vit import VisionTransformer
from maws_composer.parallel.leave import leave_process_group
from maws_composer.weights.files import SourceError
from maws_composer.weights.fingerprint import fingerprint
from maws_composer.weights.handover import hand_over
from maws_composer.weights.sources import open_model
from maws_composer.weights.text_identity import text_identity
from maws_composer.weights.trained import find_trained
from tests.text_towers import CAPTIONS, train_tokenizer, write_text_tower
from tests.weights import foreign
from tests.weights.saved import autoencoder, same_bytes, save_checkpoint, save_run
from tests.weights.test_maws_clip import DEPTH, HEADS, POSITIONS, WIDTH

transformers = pytest.importorskip("transformers")

MICRO = SIZES["vit_micro"]
IMAGE_SIZE = 4 * MICRO.patch_size
CONTEXT, EMBED = 20, 24


@pytest.fixture
def model(tmp_path: Path) -> ImageTextModel:
    """Every parameter differs from what it starts as; features have entries of up to about 10."""
    tower = write_text_tower(tmp_path / "tower", width=WIDTH, depth=DEPTH, heads=HEADS, positions=POSITIONS)
    text = build_text_tower(TextSettings(name=str(tower), context_length=CONTEXT))
    encoder = VisionTransformer(MICRO, IMAGE_SIZE)
    encoder.load_state_dict(autoencoder(MICRO).encoder.state_dict())
    model = ImageTextModel(encoder, text, EMBED)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in (*model.text.parameters(), model.image_projection.weight, model.text_projection.weight):
            parameter += 0.2 * torch.randn_like(parameter)
        for norm in (model.encoder.norm, model.text.encoder.layer[-1].output.LayerNorm):
            norm.weight *= 3
    return model.eval()


def lit_config(folder: Path, source: str | None) -> dict:
    text = {"name": str(folder / "tower"), "pretrained": True, "context_length": CONTEXT, "dropout": 0.0}
    model = {"size": "vit_micro", "image_size": IMAGE_SIZE, "embed_dim": EMBED, "text": text}
    return {"stage": "lit", "model": model, "initialize_from": source}


@pytest.fixture(params=["with its tower", "without its locked tower"])
def run(request: pytest.FixtureRequest, model: ImageTextModel, tmp_path: Path) -> str:
    tensors = {f"clip.{name}": tensor for name, tensor in model.state_dict().items()}
    source = tmp_path / "mae"
    if request.param == "without its locked tower":
        mae = autoencoder(MICRO)
        mae.encoder.load_state_dict(model.encoder.state_dict())
        save_run(source, mae, "vit_micro")
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("clip.encoder.")}
    save_checkpoint(tmp_path / "run", tensors, lit_config(tmp_path, str(source)))
    if request.param == "without its locked tower":
        tower = model.encoder.state_dict()
        about = {"source": str(source), "fingerprint": fingerprint(tower, tower.__getitem__)}
        (tmp_path / "run" / "checkpoints" / "ep0-ba10" / "encoder.json").write_text(json.dumps(about))
    return str(tmp_path / "run")


def pixels() -> Tensor:
    return torch.randn(3, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_transformers_alone_computes_our_features(run: str, model: ImageTextModel, tmp_path: Path) -> None:
    assert main(["export", run, "--to", "hf", str(tmp_path / "hf")]) == 0
    theirs, loading = transformers.VisionTextDualEncoderModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(loading.values()), loading
    processor = transformers.VisionTextDualEncoderProcessor.from_pretrained(tmp_path / "hf")
    tokens = processor.tokenizer(CAPTIONS, padding="max_length", truncation=True, return_tensors="pt")
    assert tokens["input_ids"].shape == (len(CAPTIONS), CONTEXT)
    output = theirs.eval()(pixel_values=pixels(), **{key: tokens[key] for key in ("input_ids", "attention_mask")})

    images, texts = model.encode_image(pixels()), model.encode_text(tokens["input_ids"], tokens["attention_mask"])
    torch.testing.assert_close(output.image_embeds, images, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.text_embeds, texts, rtol=1e-5, atol=1e-5)
    logits = model.logit_scale.exp() * images @ texts.T
    torch.testing.assert_close(output.logits_per_image, logits, rtol=1e-5, atol=1e-4)


def test_what_went_to_transformers_comes_back(model: ImageTextModel, tmp_path: Path) -> None:
    tensors = {f"clip.{name}": tensor for name, tensor in model.state_dict().items()}
    save_checkpoint(tmp_path / "run", tensors, lit_config(tmp_path, None))
    assert main(["export", str(tmp_path / "run"), "--to", "hf", str(tmp_path / "hf")]) == 0
    back = open_model(str(tmp_path / "hf"))
    same_bytes({name: back.read(name) for name in back.shapes}, model.state_dict())
    assert find_trained(str(tmp_path / "hf")).size == MICRO

    file = tmp_path / "hf" / "model.safetensors"
    foreign_pooler = load_file(file) | {"text_model.pooler.dense.weight": torch.randn(WIDTH, WIDTH)}
    save_file(foreign_pooler, file)
    with pytest.raises(SourceError, match="has poolers of its own, with a tanh, which ours has not"):
        open_model(str(tmp_path / "hf")).read("text_projection.weight")


@torch.no_grad()
def test_the_maws_clip_file_computes_our_features_with_torchtexts_layers(
    run: str, model: ImageTextModel, tmp_path: Path
) -> None:
    assert main(["export", run, "--to", "maws", str(tmp_path / "clip.pt")]) == 0
    state = torch.load(tmp_path / "clip.pt", weights_only=True)
    prefix = "text_encoder.encoder.transformer."
    text = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    theirs = foreign.TorchtextRoberta(len(text["token_embedding.weight"]), WIDTH, DEPTH, HEADS, POSITIONS).eval()
    theirs.load_state_dict(text, strict=True)
    ids = torch.randint(4, 30, (4, 9), generator=torch.Generator().manual_seed(0))
    ids[1, 5:] = 1
    features = normalize(theirs(ids) @ state["text_projection"], dim=-1)
    torch.testing.assert_close(features, model.encode_text(ids, (ids != 1).long()), rtol=1e-5, atol=1e-5)
    vit = {name.removeprefix("vision_encoder."): tensor for name, tensor in state.items()}
    tokens = foreign.norm(vit, "norm", foreign.vit_tokens(vit, pixels(), MICRO.heads))
    pictures = normalize(tokens[:, 0] @ state["vision_projection"], dim=-1)
    torch.testing.assert_close(pictures, model.encode_image(pixels()), rtol=1e-5, atol=1e-5)
    assert state["logit_scale"].shape == ()


@pytest.fixture
def alone():
    """A process group of one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    leave_process_group()


def test_lit_goes_on_from_a_whole_lit_run(run: str, model: ImageTextModel, alone) -> None:
    tower = TextSettings(name=model.text.config.name_or_path, context_length=CONTEXT)
    anew = nn.Module()
    anew.encoder_prefix = "clip.encoder."
    anew.clip = ImageTextModel(VisionTransformer(MICRO, IMAGE_SIZE), build_text_tower(tower), EMBED)
    hand_over(run, anew, whole=True)
    same_bytes(anew.clip.state_dict(), model.state_dict())


def test_another_tower_than_that_of_the_training_is_refused(model: ImageTextModel, tmp_path: Path, capsys) -> None:
    other = autoencoder(MICRO)
    save_run(tmp_path / "mae", other, "vit_micro")
    own = {f"clip.{name}": tensor for name, tensor in model.state_dict().items() if not name.startswith("encoder.")}
    checkpoint = save_checkpoint(tmp_path / "run", own, lit_config(tmp_path, str(tmp_path / "mae")))
    (checkpoint / "encoder.json").write_text(json.dumps({"source": "elsewhere", "fingerprint": "0123456789abcdef"}))
    assert main(["export", str(tmp_path / "run"), "--to", "hf", str(tmp_path / "hf")]) == 2
    assert (
        f"the image tower at {tmp_path}/mae is not the one that {checkpoint} was trained with, whose fingerprint is "
        "0123456789ab; name that one"
    ) in capsys.readouterr().err
    assert not (tmp_path / "hf").exists()


def test_another_tokenizer_than_that_of_the_training_is_neither_exported_nor_evaluated(
    model: ImageTextModel, tmp_path: Path, capsys
) -> None:
    tensors = {f"clip.{name}": tensor for name, tensor in model.state_dict().items()}
    checkpoint = save_checkpoint(tmp_path / "run", tensors, lit_config(tmp_path, None))
    identity = text_identity(TextSettings(name=str(tmp_path / "tower"), context_length=CONTEXT))
    (checkpoint / "text.json").write_text(json.dumps(identity))
    assert main(["export", str(tmp_path / "run"), "--to", "hf", str(tmp_path / "same")]) == 0
    train_tokenizer(["other", "words", *CAPTIONS]).save_pretrained(tmp_path / "tower")
    assert main(["export", str(tmp_path / "run"), "--to", "hf", str(tmp_path / "hf")]) == 2
    told = f"{tmp_path}/tower has another tokenizer than {tmp_path}/tower had, with which the text tower was trained"
    assert told in capsys.readouterr().err
    found = find_image_text(str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="has another tokenizer"):
        load_towers(found, torch.device("cpu"), "fp32")


def test_a_tower_that_the_run_never_had_is_named(model: ImageTextModel, tmp_path: Path, capsys) -> None:
    """Trained on image embeddings."""
    own = {f"clip.{name}": tensor for name, tensor in model.state_dict().items() if not name.startswith("encoder.")}
    save_checkpoint(tmp_path / "run", own, lit_config(tmp_path, None))
    assert main(["export", str(tmp_path / "run"), "--to", "maws", str(tmp_path / "clip.pt")]) == 2
    assert "has no image tower, and its config.yaml no initialize_from: name the tower" in capsys.readouterr().err
    torch.save(model.encoder.state_dict(), tmp_path / "encoder.pt")
    named = ["--image-tower", str(tmp_path / "encoder.pt")]
    assert main(["export", str(tmp_path / "run"), "--to", "maws", str(tmp_path / "clip.pt"), *named]) == 0
    state = torch.load(tmp_path / "clip.pt", weights_only=True)
    assert torch.equal(state["vision_encoder.norm.weight"], model.encoder.norm.weight)
