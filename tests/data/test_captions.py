"""Captions reach the batch as tokens, in the order of the images, and whatever is wrong with them is told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from streaming import MDSWriter
from tokenizers import Tokenizer
from transformers import BertConfig, BertTokenizerFast

from maws_composer.config.problems import ConfigError
from maws_composer.data.captions import CaptionTokenizer, tokenizer_problems
from maws_composer.data.preflight import check_data
from tests.data import reader
from tests.data.shards import png, write_shards
from tests.text_towers import train_tokenizer

CAPTIONS = [f"a {color} {animal}" for color in ("red", "green", "blue") for animal in ("cat", "dog", "bird", "fish")]
CAPTIONS += ["ein grüner Vogel", "猫", "طائر أحمر", "a very small photo of a red cat and of a green dog"]
CONTEXT = 8


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(CAPTIONS).save_pretrained(folder)
    return folder


def write_captioned(folder: Path, captions: Sequence[str | bytes]) -> Path:
    """Pictures with captions; ids are their numbers. Captions as bytes are written as they are."""
    columns = {"image": "bytes", "id": "str", "caption": "bytes"}
    with MDSWriter(out=str(folder), columns=columns, hashes=["sha1"], size_limit=1 << 13) as writer:
        for number, caption in enumerate(captions):
            data = caption if isinstance(caption, bytes) else caption.encode()
            writer.write({"image": png(number), "id": str(number), "caption": data})
    index = json.loads((folder / "index.json").read_text())
    for shard in index["shards"]:  # text that is not UTF-8 cannot be written as such
        shard["column_encodings"][shard["column_names"].index("caption")] = "str"
    (folder / "index.json").write_text(json.dumps(index))
    return folder


def check(scratch: Path, folder: Path, tokenizer: Path | str) -> list[str]:
    train = {"local": str(folder), "num_canonical_nodes": 4, "max_left_out_share": 0.5}
    run = reader.settings({"train": train, "scratch": str(scratch / "scratch"), "tokenizer": str(tokenizer)})
    return [f"{problem.path}: {problem.message}" for problem in check_data(run, 1, 1, ["caption"])]


def by_hand(tokenizer: Path, caption: str) -> tuple[list[int], list[int]]:
    """Ids and mask by the `tokenizers` package alone."""
    alone = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    alone.no_truncation(), alone.no_padding()
    inner = alone.encode(caption, add_special_tokens=False).ids[: CONTEXT - 2]
    filling = CONTEXT - 2 - len(inner)
    return [0, *inner, 2] + [1] * filling, [1] * (CONTEXT - filling) + [0] * filling


def test_a_batch_has_the_captions_and_their_tokens(tmp_path: Path, tokenizer: Path) -> None:
    folder = write_captioned(tmp_path / "data", CAPTIONS * 4)
    base = {"columns": ["caption"], "tokenizer": str(tokenizer), "scratch": str(tmp_path / "s")}
    train = {**base, "train": {"local": str(folder), "num_canonical_nodes": 4}}
    (here,), (with_workers,), (evaluated,) = reader.run(
        [train, {**train, "workers": 2}, {**base, "train": {}, "eval": {"local": str(folder)}}]
    )
    assert not here["error"] and here["rows"] == with_workers["rows"]
    assert len(here["rows"]) == len(evaluated["rows"]) == 64
    for *_, name, _, caption, ids, mask in [*here["rows"], *evaluated["rows"]]:
        assert caption == CAPTIONS[int(name) % len(CAPTIONS)]
        assert (ids, mask) == by_hand(tokenizer, caption)


def test_captions_that_say_nothing_are_replaced_by_the_next_and_named(tmp_path: Path, tokenizer: Path) -> None:
    bad = {3: "", 5: " \n\t", 9: b"\xff\xfe caption"}
    folder = write_captioned(tmp_path / "data", [bad.get(i, caption) for i, caption in enumerate(CAPTIONS)])
    scenario = {"train": {}, "eval": {"local": str(folder)}, "columns": ["caption"], "tokenizer": str(tokenizer)}
    ((result,),) = reader.run([{**scenario, "scratch": str(tmp_path / "s")}])
    assert not result["error"]
    found = {position: (name, replaced, caption) for _, position, replaced, _, name, _, caption, *_ in result["rows"]}
    assert [found[i] for i in bad] == [(str(i + 1), True, CAPTIONS[i + 1]) for i in bad]
    assert sum(replaced for _, replaced, _ in found.values()) == 3
    for reason in ("3 cannot be used: caption is empty (", "5 cannot be used: caption is empty (",
                   "9 cannot be used: caption is not UTF-8: invalid start byte at byte 0 ("):  # fmt: skip
        assert f"sample {reason}" in result["log"]


def test_long_captions_are_cut_to_the_tokens_that_all_of_them_begin_with(tokenizer: Path) -> None:
    long = ["a red cat and " * 800, "猫" * 10_000, " " * 5 + "green " * 2_000, "x" * 10_000]
    tokens = CaptionTokenizer(str(tokenizer), CONTEXT)(long)
    assert tokens["input_ids"].dtype == tokens["attention_mask"].dtype == torch.int64
    for row, (caption, ids) in enumerate(zip(long, tokens["input_ids"].tolist(), strict=True)):
        assert (ids, tokens["attention_mask"][row].tolist()) == by_hand(tokenizer, caption)


def test_a_caption_that_begins_with_much_space_keeps_its_words(tokenizer: Path, tmp_path: Path) -> None:
    """As those of XLM-R do, this tokenizer takes spaces away."""
    state = json.loads((tokenizer / "tokenizer.json").read_text())
    state["normalizer"] = {"type": "Strip", "strip_left": True, "strip_right": True}
    for file in tokenizer.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    tokens = CaptionTokenizer(str(tmp_path), CONTEXT)([" " * 32 * CONTEXT + "a red cat", "a red cat"])
    spaced, plain = tokens["input_ids"].tolist()
    assert spaced == plain


def test_the_tokenizer_of_another_kind_of_encoder_works(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "cat", "##s"]))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    tokens = CaptionTokenizer(str(tmp_path), 6)(["red cats", "Red"])
    assert tokens["input_ids"].tolist() == [[2, 5, 6, 7, 3, 0], [2, 5, 3, 0, 0, 0]]
    assert tokens["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]]


def test_missing_captions_are_told_before_anything_is_spent(tmp_path: Path, tokenizer: Path) -> None:
    plain = write_shards(tmp_path / "plain", 60)
    assert check(tmp_path, plain, tokenizer) == [
        f"data.train.columns.caption: {plain} has no column caption; it has id, image"
    ]
    empty = write_captioned(tmp_path / "empty", [""] * 60)
    (problem,) = check(tmp_path, empty, tokenizer)
    assert problem.startswith("data.train.columns.caption: none of the first ")
    assert problem.endswith("can be used: caption is empty")
    assert check(tmp_path, write_captioned(tmp_path / "good", CAPTIONS * 2), tokenizer) == []


def test_a_tokenizer_that_is_not_to_be_had_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (absent,) = tokenizer_problems("somebody/encoder", CONTEXT)
    assert absent.path == "model.text.name"
    assert absent.message.startswith("there is no folder somebody/encoder, and Hugging Face did not give a tokenizer")
    assert "`hf download somebody/encoder --local-dir FOLDER` elsewhere, and name that folder" in absent.message
    (empty,) = tokenizer_problems(str(tmp_path), CONTEXT)
    assert empty.message == f"{tmp_path} has no tokenizer.json"


def test_a_tokenizer_without_padding_is_told(tmp_path: Path, tokenizer: Path) -> None:
    for file in tokenizer.iterdir():
        content: Any = json.loads(file.read_text())
        if file.name != "tokenizer.json":
            content.pop("pad_token", None)
            content["tokenizer_class"] = "PreTrainedTokenizerFast"
        (tmp_path / file.name).write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="has no padding token; set pad_token in its"):
        CaptionTokenizer(str(tmp_path), CONTEXT)


def test_a_tokenizer_of_another_tower_is_told(tmp_path: Path, tokenizer: Path) -> None:
    for file in tokenizer.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    size = CaptionTokenizer(str(tokenizer), CONTEXT).vocabulary_size
    BertConfig(vocab_size=size, pad_token_id=1).save_pretrained(tmp_path)
    assert tokenizer_problems(str(tmp_path), CONTEXT) == []
    BertConfig(vocab_size=20, pad_token_id=0).save_pretrained(tmp_path)
    assert [problem.message for problem in tokenizer_problems(str(tmp_path), CONTEXT)] == [
        f"{tmp_path} has a tokenizer {told}: they are of two models"
        for told in (
            f"of {size} tokens and a tower that knows 20",
            "that fills up with token 1 and a tower that takes 0 for it",
        )
    ]
