"""`maws-composer text-tower`: a folder that transformers reads, with XLM-R's special tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from streaming import MDSWriter
from transformers import AutoConfig, AutoModel, AutoTokenizer

from maws_composer.cli import main

CAPTIONS = ["a brown bear", "the old bear sleeps", "ein brauner Bär", "熊が眠る", "a bear in brown leaves"] * 4


@pytest.fixture
def data(tmp_path: Path) -> str:
    with MDSWriter(out=str(tmp_path / "data"), columns={"id": "str", "caption": "str"}) as writer:
        for number, caption in enumerate(CAPTIONS):
            writer.write({"id": str(number), "caption": caption})
    return str(tmp_path / "data")


def test_transformers_reads_it(data: str, tmp_path: Path) -> None:
    out = str(tmp_path / "tower")
    shape = ["--vocabulary", "60", "--width", "32", "--depth", "2", "--heads", "4"]
    assert main(["text-tower", data, out, *shape]) == 0
    tokenizer, config = AutoTokenizer.from_pretrained(out), AutoConfig.from_pretrained(out)
    assert len(tokenizer) == config.vocab_size <= 60
    tokens = tokenizer(["a brown bear", "bear"], padding="max_length", max_length=20, return_tensors="pt")
    for ids, mask in zip(tokens["input_ids"], tokens["attention_mask"], strict=True):
        pieces = ids[mask.bool()]
        assert pieces[0] == 0 and pieces[-1] == 2 and (ids[~mask.bool()] == 1).all(), (
            "<s> … </s> <pad>, as XLM-R has them"
        )
        assert 3 not in pieces, "every letter is in the vocabulary"
    assert tokenizer.decode(tokens["input_ids"][0], skip_special_tokens=True) == "a brown bear"
    assert tokenizer("☃")["input_ids"].count(3) == 1
    hidden = AutoModel.from_config(config)(**tokens).last_hidden_state
    assert hidden.shape == (2, 20, 32) and torch.isfinite(hidden).all()


def test_mistakes_are_told(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["text-tower", str(tmp_path), data, "--width", "30"]) == 2
    message = capsys.readouterr().err
    for part in ("no index.json", "holds something already", "30 cannot be split over 4 heads"):
        assert part in message
