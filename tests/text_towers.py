"""A text tower in miniature for tests: an XLM-R with random weights and a tokenizer with XLM-R's special tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

# As XLM-R numbers them: <s> 0, <pad> 1, </s> 2, <unk> 3.
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
CAPTIONS = [
    "a red square", "ein rotes Quadrat", "un carré rouge", "un cuadrado rojo", "赤い四角", "красный квадрат",
    "a blue circle", "ein blauer Kreis", "un cercle bleu", "un círculo azul", "青い丸", "синий круг",
    "two green triangles on a table", "zwei grüne Dreiecke", "deux triangles verts", "مثلثان أخضران", "두 개의 삼각형",
]  # fmt: skip


def write_text_tower(
    folder: Path,
    captions: Iterable[str] = CAPTIONS,
    *,
    width: int = 32,
    depth: int = 2,
    heads: int = 2,
    positions: int = 40,
    vocabulary: int = 200,
    rows: int | None = None,
    pad_token_id: int = 1,
    seed: int = 0,
) -> Path:
    """A folder that `AutoModel` and `AutoTokenizer` read, both trained or drawn on the spot.

    Args:
        captions: what the tokenizer learns its pieces from.
        vocabulary: pieces at most.
        rows: of the tower's word embedding. None: as many as the tokenizer has pieces.
        pad_token_id: of the tower; the tokenizer's is 1.
    """
    tokenizer = train_tokenizer(captions, vocabulary)
    tokenizer.save_pretrained(folder)
    config = XLMRobertaConfig(
        vocab_size=rows or len(tokenizer),
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=positions,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        bos_token_id=0,
        pad_token_id=pad_token_id,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def train_tokenizer(captions: Iterable[str], vocabulary: int = 200) -> PreTrainedTokenizerFast:
    """A Unigram tokenizer that makes <s> pieces </s> of a text."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=vocabulary, special_tokens=SPECIAL, unk_token="<unk>")
    tokenizer.train_from_iterator(captions, trainer)
    state = json.loads(tokenizer.to_str())
    state["model"]["unk_id"] = SPECIAL.index("<unk>")
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
    )
