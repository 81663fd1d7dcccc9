"""Zero-shot classification and retrieval of captions, against plain formulas and brute force."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import normalize
from torchmetrics.functional.classification import multilabel_average_precision

from maws_composer.config.problems import ConfigError
from maws_composer.evaluation.caption_retrieval import Retrieval
from maws_composer.evaluation.features import Extracted, Features, Guess, Words, multi_hot
from maws_composer.evaluation.texts import classifier
from maws_composer.evaluation.wording import LANGUAGES, SLOT, read_class_names, read_templates
from maws_composer.evaluation.zero_shot import ZeroShot, multi_label_figures
from maws_composer.parallel.leave import leave_process_group
from tests.processes import free_port

EMBED = 16


@pytest.fixture(autouse=True, scope="module")
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{free_port()}", rank=0, world_size=1)
    yield
    leave_process_group()


class HashTowers:
    """Any text has a direction of its own; images are in that space already, but for their length."""

    def project(self, features: Tensor) -> Tensor:
        return normalize(features, dim=1)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([normalize(vector(text), dim=0) for text in texts])


def vector(text: str) -> Tensor:
    return torch.randn(EMBED, generator=torch.Generator().manual_seed(zlib.crc32(text.encode())))


def extracted(values: Tensor, labels: Tensor, captions: Sequence[str] = ()) -> Extracted:
    ids = tuple(str(number) for number in range(len(values)))
    pictures = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    return Extracted(Features(values, labels), ids, tuple(captions), pictures, torch.tensor([0, len(values) - 1]))


def test_a_classifier_is_the_scaled_mean_of_scaled_embeddings_of_all_names_in_all_templates() -> None:
    names = (("cat", "domestic {cat}"), ("dog",), ("owl", "bird of the night", "hooter"))
    templates = ("a photo of {}", "{}", "here is {} again")
    rows = classifier(HashTowers(), names, templates, "", texts_at_once=7)
    for row, synonyms in zip(rows, names, strict=True):
        total = torch.zeros(EMBED, dtype=torch.float64)
        for name in synonyms:
            for template in templates:
                before, after = template.split("{}")
                embedding = vector(before + name + after).double()
                total += embedding / embedding.square().sum().sqrt()
        mean = total / (len(synonyms) * len(templates))
        torch.testing.assert_close(row.double(), mean / mean.square().sum().sqrt(), atol=1e-6, rtol=0)


def test_accuracy_of_each_language_is_that_of_plain_loops(tmp_path: Path) -> None:
    file = tmp_path / "names.json"
    spelled = {"en": "number {}", "fr": "numéro {}"}
    file.write_text(json.dumps({n: {code: [s.format(n)] for code, s in spelled.items()} for n in range(12)}))
    plain = tmp_path / "plain.yaml"
    plain.write_text('templates: ["{}"]\n')
    labels = torch.arange(60).unsqueeze(1) % 12
    near = torch.stack([vector(f"number {n % 12}") * 0.4 for n in range(60)])
    values = near + torch.randn(60, EMBED, generator=torch.Generator().manual_seed(0))
    zero_shot = ZeroShot(("en", "fr"), str(file), {"en": str(plain), "fr": str(plain)})
    result = zero_shot.with_text(extracted(values, labels), Words(), HashTowers())
    for code, spelling in spelled.items():
        texts = [vector(spelling.format(n)) for n in range(12)]
        order = [
            sorted(range(12), key=lambda n, value=value: -float(torch.cosine_similarity(value, texts[n], dim=0)))
            for value in values
        ]
        for most in (1, 5):
            expected = sum(n % 12 in best[:most] for n, best in enumerate(order)) / 60
            assert result.figures[f"{code}/top{most}"] == pytest.approx(expected)
        last = [Guess(spelling.format(n), n == 59 % 12) for n in order[59][:5]]
        assert result.guesses[code][1] == last
    assert 0.3 < result.figures["en/top1"] < 1 and result.figures["fr/top1"] < 0.3
    assert result.figures["chance/top1"] == pytest.approx(1 / 12)
    assert result.figures["chance/top5"] == pytest.approx(5 / 12)


def test_of_several_labels_the_map_is_that_of_torchmetrics(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.stack([torch.arange(50) % 5, torch.where(torch.arange(50) % 3 == 0, torch.arange(50) % 4, -1)], 1)
    labels[:, 1] = torch.where(labels[:, 0] == labels[:, 1], -1, labels[:, 1])
    values = torch.randn(50, EMBED, generator=generator)
    words = Words(class_names=("a", "b", "c", "d", "e"))
    result = ZeroShot(multi_label=True).with_text(extracted(values, labels), words, HashTowers())
    rows = classifier(HashTowers(), tuple((name,) for name in words.class_names), read_templates("en"), "")
    scores = normalize(values, dim=1) @ rows.T
    hot = multi_hot(labels, 0, 5).long()
    expected = multilabel_average_precision(scores.sigmoid(), hot, num_labels=5, average="macro")
    assert result.figures["en/exact_map"] == pytest.approx(float(expected), abs=1e-5)
    hits = [bool(hot[n, int(scores[n].argmax())]) for n in range(50)]
    assert result.figures["en/precision_at_1"] == pytest.approx(sum(hits) / 50)


def test_classes_without_a_name_are_left_out_if_that_was_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "names.yaml"
    file.write_text("owl: {en: owl}\n2: {en: [dog]}\n")
    words = Words(class_names=("cat", "owl", "dog"))
    labels = torch.tensor([[0, -1], [1, -1], [0, 2], [2, 1]])
    with pytest.raises(ConfigError, match=r"names no class 0 \(cat\); only_named: true"):
        ZeroShot(class_names=str(file)).check(words)
    values = torch.stack([vector("x"), vector("owl"), vector("dog"), vector("owl")])
    plain = tmp_path / "plain.yaml"
    plain.write_text('templates: ["{}"]\n')
    zero_shot = ZeroShot(class_names=str(file), only_named=True, templates={"en": str(plain)})
    figures = zero_shot.with_text(extracted(values, labels), words, HashTowers()).figures
    assert (figures["images"], figures["classes"], figures["en/top1"]) == (3, 2, 1)


def test_recall_is_that_of_brute_force_with_captions_that_repeat() -> None:
    captions = [f"thing {n % 17}" if n % 6 else "" for n in range(40)]
    near = torch.stack([vector(caption) * 0.5 for caption in captions])
    values = near + torch.randn(40, EMBED, generator=torch.Generator().manual_seed(0))
    none = torch.full((40, 1), -1)
    found = Retrieval().with_text(extracted(values, none, captions), Words(), HashTowers())
    rows = [n for n in range(40) if captions[n]]
    texts = sorted({captions[n] for n in rows})
    score = {
        (n, text): float(torch.cosine_similarity(values[n].double(), vector(text).double(), dim=0))
        for n in rows
        for text in texts
    }
    for most in (1, 5, 10):
        to_text = [captions[n] in sorted(texts, key=lambda text, n=n: -score[n, text])[:most] for n in rows]
        to_image = [
            any(captions[n] == text for n in sorted(rows, key=lambda n, text=text: -score[n, text])[:most])
            for text in texts
        ]
        assert found.figures[f"image_to_text/recall_at_{most}"] == pytest.approx(sum(to_text) / len(rows))
        assert found.figures[f"text_to_image/recall_at_{most}"] == pytest.approx(sum(to_image) / len(texts))
    assert 0.2 < found.figures["image_to_text/recall_at_1"] < 1
    by_id = {str(n): {"ko": caption} for n, caption in enumerate(captions) if caption}
    korean = Retrieval(("ko",)).with_text(extracted(values, none), Words(captions=by_id), HashTowers())
    assert korean.figures["ko/text_to_image/recall_at_5"] == found.figures["text_to_image/recall_at_5"]


def test_a_model_that_says_the_same_of_everything_finds_nothing() -> None:
    class Same(HashTowers):
        def encode_text(self, texts: Sequence[str]) -> Tensor:
            return normalize(torch.ones(len(texts), EMBED), dim=1)

    test = extracted(torch.ones(40, EMBED), torch.full((40, 1), -1), [str(number) for number in range(40)])
    figures = Retrieval().with_text(test, Words(), Same()).figures
    chance = {f"chance/{way}/recall_at_{k}": k / 40 for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)}
    assert {name: value for name, value in figures.items() if value} == pytest.approx(chance)
    of_classes = ZeroShot().with_text(
        extracted(torch.ones(40, EMBED), torch.arange(40).unsqueeze(1) % 9),
        Words(class_names=tuple(f"class {n}" for n in range(9))),
        Same(),
    )
    assert (of_classes.figures["en/top1"], of_classes.figures["en/top5"]) == (0, 0)


def test_figures_are_exact_whatever_precision_the_encoder_has() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300).unsqueeze(1) % 50
    rows = normalize(torch.randn(50, 256, generator=generator), dim=1)
    images = normalize(rows[labels[:, 0]] + 2 * torch.randn(300, 256, generator=generator), dim=1)
    exactly = multi_label_figures(images.double(), labels, rows.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert multi_label_figures(images, labels, rows) == pytest.approx(exactly, abs=1e-6)


def test_every_language_has_templates_with_one_place_for_the_name() -> None:
    assert len(LANGUAGES) == 14
    for language in LANGUAGES:
        templates = read_templates(language)
        assert len(templates) >= 8 and all(template.count(SLOT) == 1 for template in templates)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('templates: ["a photo"]', "templates.0: 'a photo' has not one {}, where the name of a class comes"),
        ('templates: ["{}", "{}"]', "templates.1: '{}' is there twice"),
        ("- a photo of {}", "holds no keys and values"),
        ("templates: [", "cannot be read: while parsing"),
    ],
)
def test_mistakes_in_templates_name_file_and_key(text: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "hi.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        ZeroShot(("hi",), templates={"hi": str(file)})
    assert str(caught.value).startswith(f"{file}: ") and complaint in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("0: {en: cat}\n1: {fr: chien}", "1.en: has no name, or one that is no text"),
        ("0: {en: cat}\n2: {en: dog}", "names no class 1; only_named"),
        ("0: {en: cat, grman: Katze}", "0.grman: unknown language 'grman'; nearest is de; templates of one's own"),
        ("0: {en: [cat, cat]}", "0.en: 'cat' is there twice"),
        ("0: {en: cat}\n0: {en: dog}", "cannot be read: 0 is there twice, again in line 2"),
        ("0: {en: cat}\n'00': {en: dog}", "00: is the class 0, which is there already"),
        ("cat: {en: cat}", "cat: is no class index, and the dataset has no classes.json"),
        ("0: [cat]", "0: expected names by language, such as"),
        ("0: {en: cat, on: chat}", "0.on: unknown language 'on'; known are ar"),
        ("0: {en: cat, NULL: chat}", "0.NULL: unknown language 'NULL'"),
        ("? [0, 1]\n: {en: cat}", "cannot be read: the key in line 1 is no text"),
    ],
)
def test_mistakes_in_class_names_name_file_and_key(text: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "names.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_class_names(str(file), ["en"], list(LANGUAGES))
    assert str(caught.value).startswith(f"{file}: ") and complaint in str(caught.value)


def test_keys_that_yaml_takes_for_truth_values_and_octal_numbers_are_text(tmp_path: Path) -> None:
    file = tmp_path / "names.yaml"
    file.write_text("no: {no: sau, en: [sheep]}\n010: {no: [nei], en: ['no']}\n")
    dataset = [*(f"class {n}" for n in range(9)), "no", "yes"]
    names, indices = read_class_names(str(file), ["no", "en"], ["no", "en"], dataset, only_named=True)
    assert indices == (9, 10) and names == {"no": (("sau",), ("nei",)), "en": (("sheep",), ("no",))}


def test_languages_that_are_not_there_are_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown language 'frensh'; nearest is fr"):
        ZeroShot(("frensh",))
    with pytest.raises(ConfigError, match=r"class_names: is missing; classes.json has no names for fr"):
        ZeroShot(("en", "fr")).check(Words(class_names=("cat",)))
    with pytest.raises(ConfigError, match=r"classes.json has but numbers, such as n01440764"):
        ZeroShot().check(Words(class_names=("n01440764", "n01443537")))
    with pytest.raises(ConfigError, match=r"no captions in 'fr'; data.test has captions in en"):
        Retrieval(("fr",)).check(Words(captions={"1": {"en": "cat"}}))
