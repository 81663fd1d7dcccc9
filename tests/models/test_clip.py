"""The two towers: against transformers' own model, and against counts that are not ours."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    AlbertConfig,
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPTextConfig,
    DebertaV2Config,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    MPNetConfig,
    PretrainedConfig,
    SiglipConfig,
    T5Config,
    XLMRobertaModel,
)

from maws_composer.models.clip import ImageTextModel
from maws_composer.models.initialization import initialize
from maws_composer.models.sizes import ViTSize
from maws_composer.models.text_tower import TextSettings, build_text_tower, mask_for, text_config, text_layers
from maws_composer.models.vit import VisionTransformer
from maws_composer.parallel.materialize import materialize
from tests.processes import ROOT
from tests.text_towers import CAPTIONS, write_text_tower

LENGTH = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_tower(tmp_path_factory.mktemp("text"))


def model(folder: Path, **rest) -> ImageTextModel:
    size = ViTSize(width=24, depth=1, heads=2, patch_size=6)
    text = build_text_tower(TextSettings(name=str(folder), context_length=LENGTH))
    return ImageTextModel(VisionTransformer(size, 12), text, 20, **rest)


def tokens(folder: Path) -> dict[str, torch.Tensor]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer(CAPTIONS, max_length=LENGTH, padding="max_length", truncation=True, return_tensors="pt")


@pytest.mark.parametrize(("name", "count"), [("base", 277_452_288), ("large", 558_839_808)])
def test_xlm_r_is_known_without_a_network(name: str, count: int) -> None:
    """FACTS 6.4: torchtext's count, which has no token types; transformers adds one row of them."""
    with torch.device("meta"):
        tower = build_text_tower(TextSettings(name=f"FacebookAI/xlm-roberta-{name}"))
    width = tower.config.hidden_size
    assert sum(parameter.numel() for parameter in tower.parameters()) == count + width
    assert len([*tower.parameters()]) == 5 + 16 * len(text_layers(tower))


def test_a_text_is_the_first_tokens_last_state_projected_and_of_unit_length(folder: Path) -> None:
    clip = model(folder)
    initialize(clip, seed=0)
    pretrained = XLMRobertaModel.from_pretrained(folder, add_pooling_layer=False).eval()
    clip.text.load_state_dict(pretrained.state_dict())
    batch = tokens(folder)
    expected = pretrained(**{name: batch[name] for name in ("input_ids", "attention_mask")}).last_hidden_state[:, 0]
    expected = expected @ clip.text_projection.weight.T
    encoded = clip.train().encode_text(batch["input_ids"], batch["attention_mask"])  # no dropout, so training is equal
    assert encoded.dtype == torch.float32
    torch.testing.assert_close(encoded, expected / expected.norm(dim=1, keepdim=True))


def test_it_survives_the_meta_device_with_the_same_bits(folder: Path) -> None:
    real = model(folder)
    initialize(real, seed=3)
    with torch.device("meta"):
        built = model(folder)
    materialize(built, torch.device("cpu"), seed=3)
    batch = tokens(folder)
    encoded = [clip.encode_text(batch["input_ids"], batch["attention_mask"]) for clip in (real, built)]
    torch.testing.assert_close(*encoded, rtol=0, atol=0)
    assert real.text.embeddings.word_embeddings.weight[1].abs().sum() == 0  # padding
    assert 0.018 < real.text.embeddings.word_embeddings.weight[4:].std() < 0.022
    assert real.text_projection.weight.std().item() == pytest.approx(32**-0.5, rel=0.2)
    assert real.logit_scale.item() == pytest.approx(math.log(1 / 0.07)) and real.logit_scale.shape == (1,)


def test_the_scale_is_clamped(folder: Path) -> None:
    clip = model(folder)
    for unclamped, expected in ((5.0, math.log(100)), (-1.0, 0.0)):
        torch.nn.init.constant_(clip.logit_scale, unclamped)
        clip.clamp_scale()
        assert clip.logit_scale.item() == pytest.approx(expected)


def test_a_locked_tower_stays_in_evaluation_mode_without_gradients(folder: Path) -> None:
    clip = model(folder)
    clip.lock_encoder()
    clip.train()
    assert not clip.encoder.training and clip.text.training
    assert not any(parameter.requires_grad for parameter in clip.encoder.parameters())


def test_any_other_encoder_of_transformers_will_do(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64)
    BertModel(config).save_pretrained(tmp_path)
    with torch.device("meta"):
        clip = model(tmp_path)
    materialize(clip, torch.device("cpu"), seed=0)
    assert len(text_layers(clip.text)) == 3
    ids = torch.arange(LENGTH).repeat(2, 1)
    assert clip.encode_text(ids, torch.ones_like(ids)).norm(dim=1).tolist() == pytest.approx([1.0, 1.0])


SMALL = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


@pytest.mark.parametrize("kind", ["bert", "camembert", "roberta", "xlm-roberta", "xlm-roberta-xl"])
def test_a_mask_that_is_not_looked_at_masks_alike(kind: str) -> None:
    tower = AutoModel.from_config(AutoConfig.for_model(kind, **SMALL, pad_token_id=1), add_pooling_layer=False).eval()
    ids = torch.arange(4, 4 + 2 * LENGTH).view(2, LENGTH)
    for lengths in ([5, LENGTH], [LENGTH, LENGTH]):  # the second without padding: none is given to the attention then
        mask = (torch.arange(LENGTH) < torch.tensor(lengths)[:, None]).long()
        given = mask_for(tower, mask)
        assert given.ndim == 3
        ours, theirs = (tower(ids, attention_mask=each).last_hidden_state for each in (given, mask))
        torch.testing.assert_close(ours[mask.bool()], theirs[mask.bool()])


@pytest.mark.parametrize(
    "config",
    [
        DebertaV2Config(**SMALL),
        DistilBertConfig(vocab_size=50, dim=32, n_layers=2, n_heads=2, hidden_dim=64),
        MPNetConfig(**SMALL),
    ],
    ids=["deberta", "distilbert", "mpnet"],
)
def test_a_fresh_process_builds_any_encoder_on_the_meta_device_too(config: PretrainedConfig, tmp_path: Path) -> None:
    """Composer, for one, imports models' modules early, which do not survive being imported on meta."""
    config.save_pretrained(tmp_path)
    code = (
        "import sys, torch; from maws_composer.models.text_tower import *\n"
        "with torch.device('meta'): build_text_tower(TextSettings(name=sys.argv[1]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    finished = subprocess.run(
        [sys.executable, "-c", code, tmp_path], env=environment, capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (CLIPConfig(), "of type clip, which is no text encoder alone: its configuration has no hidden_size"),
        (SiglipConfig(), "of type siglip, which is no text encoder alone: its configuration has no hidden_size"),
        (GPT2Config(vocab_size=50), "of type gpt2, in which the first token"),
        (LlamaConfig(**SMALL), "of type llama, in which the first token"),
        (CLIPTextConfig(**SMALL), "of type clip_text_model, in which the first token"),
        (BertConfig(is_decoder=True, **SMALL), "of type bert, in which the first token"),
        (T5Config(vocab_size=50), "an encoder with a decoder"),
        (AlbertConfig(embedding_size=16, **SMALL), "AlbertModel has no list of 2 layers"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_what_is_no_text_encoder_alone_is_refused_in_a_sentence(
    config: PretrainedConfig, reason: str, tmp_path: Path
) -> None:
    config.save_pretrained(tmp_path)
    with (
        torch.device("meta"),
        pytest.raises(ValueError, match=rf"text\.name: .*{reason}.*; name an encoder such as XLM-R"),
    ):
        build_text_tower(TextSettings(name=str(tmp_path), context_length=LENGTH))


def test_what_cannot_be_a_text_tower_is_refused_by_name(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"text\.name: .*nowhere has no readable configuration"):
        text_config(TextSettings(name=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match=r"text\.context_length: .* has positions for 38 tokens, not 39"):
        text_config(TextSettings(name=str(folder), context_length=39))
