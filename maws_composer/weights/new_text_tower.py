"""`maws-composer text-tower`: a small text tower of one's own, of XLM-R's kind, that has learned nothing yet.

A vocabulary of sentence pieces from the captions, and a configuration, in the files that Hugging Face has for XLM-R: a
folder for `model.text.name`, with `model.text.pretrained=false`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from streaming import LocalDataset
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import XLMRobertaConfig, XLMRobertaTokenizerFast

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.data.columns import CAPTION

_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]  # the first four have XLM-R's ids
_POSITIONS = 514  # XLM-R's


def new_text_tower(data: str, out: Path, *, vocabulary: int, width: int, depth: int, heads: int) -> int:
    """Write tokenizer and config.json of a new text tower.

    Args:
        data: local MDS folder with captions.
        out: a new folder.
        vocabulary: sentence pieces at most; few captions yield fewer.
        width, depth, heads: of the tower.

    Returns:
        Size of the vocabulary.

    Raises:
        ConfigError: no captions there, something at `out`, or a width that the heads do not divide.
    """
    problems = []
    if not (Path(data) / "index.json").exists():
        problems.append(Problem(data, "has no index.json; name a local folder of MDS shards"))
    if out.exists() and any(out.iterdir()):
        problems.append(Problem(str(out), "holds something already; name a new folder"))
    if width % heads:
        problems.append(Problem("--width", f"{width} cannot be split over {heads} heads"))
    if problems:
        raise ConfigError(problems)
    tokenizer = _train_tokenizer(_captions(data), vocabulary)
    tokenizer.save_pretrained(out)
    XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        max_position_embeddings=_POSITIONS,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    ).save_pretrained(out)
    return len(tokenizer)


def _captions(data: str) -> Iterator[str]:
    for sample in LocalDataset(data):
        if CAPTION not in sample:
            raise ConfigError([Problem(data, f"has no column {CAPTION}; it has {', '.join(sorted(sample))}")])
        yield sample[CAPTION]


def _train_tokenizer(captions: Iterable[str], vocabulary: int) -> XLMRobertaTokenizerFast:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocabulary, special_tokens=_SPECIAL, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(captions, trainer)
    begin, end = _SPECIAL[0], _SPECIAL[2]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", pair=f"{begin} $A {end} {end} $B {end}", special_tokens=[(begin, 0), (end, 2)]
    )
    return XLMRobertaTokenizerFast(tokenizer_object=tokenizer)
