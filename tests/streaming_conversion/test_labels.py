"""`python -m streaming_conversion label SRC DST`."""

from __future__ import annotations

import io
import json
import unicodedata
from collections import Counter
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streaming import LocalDataset
from tqdm import tqdm

from maws_composer.data.classes import Classes
from maws_composer.data.columns import DatasetFile
from streaming_conversion.cli import main
from streaming_conversion.hashtags import as_written, normalise
from tests.streaming_conversion.conftest import content, save_images, write_metadata

BROWN_BEAR, POLAR_BEAR, RIVER_BANK, MONEY_BANK = "brown bear", "polar bear", "bank", "depository"
SYNSETS = {  # name -> lemmas, gloss
    BROWN_BEAR: (["brown_bear", "bruin", "Ursus_arctos"], "large ferocious bear of Eurasia"),
    POLAR_BEAR: (["ice_bear", "polar_bear"], "white bear of Arctic regions"),
    RIVER_BANK: (["bank"], "sloping land"),
    MONEY_BANK: (["depository", "bank"], "an institution that accepts deposits"),
}
SENSES = [RIVER_BANK, MONEY_BANK]  # of "bank", the most frequent first


def write_wordnet(folder: Path) -> dict[str, str]:
    """`index.noun` and `data.noun` as wndb(5WN) describes them. Returns name -> identifier."""
    folder.mkdir()
    data, identifiers = "  1 This software and database is being provided to you\n", {}
    for name, (lemmas, gloss) in SYNSETS.items():
        offset = len(data.encode())
        identifiers[name] = f"n{offset:08}"
        words = " ".join(f"{lemma} 0" for lemma in lemmas)
        data += f"{offset:08} 05 n {len(lemmas):02x} {words} 001 @ 00000000 n 0000 | {gloss}  \n"
    index = "  1 This software and database is being provided to you\n"
    names = {lemma.lower(): [name] for name, (lemmas, _) in SYNSETS.items() for lemma in lemmas} | {"bank": SENSES}
    for lemma, senses in sorted(names.items()):
        offsets = " ".join(identifiers[name][1:] for name in senses)
        index += f"{lemma} n {len(senses)} 2 @ ~ {len(senses)} 0 {offsets}  \n"
    (folder / "data.noun").write_text(data)
    (folder / "index.noun").write_text(index)
    return identifiers


@pytest.fixture
def wordnet(tmp_path: Path) -> dict[str, str]:
    """A miniature of WordNet in `tmp_path/dict`."""
    return write_wordnet(tmp_path / "dict")


def photos(folder: Path, hashtags: list[list[str]], **more: Any) -> Path:
    """Pictures with these hashtags, in the order of their names."""
    names = save_images(folder, len(hashtags), size=8)
    write_metadata(folder, [{"file_name": n, "hashtags": tags} | more for n, tags in zip(names, hashtags, strict=True)])
    return folder


def label(source: Path, destination: Path, *options: object) -> Path:
    assert main([str(each) for each in ("label", source, destination, "--processes", 1, *options)]) == 0
    return destination


def failure(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err


def samples(folder: Path) -> list[dict[str, Any]]:
    dataset = LocalDataset(local=str(folder))
    return [dataset[index] for index in range(len(dataset))]


def classes(folder: Path) -> Classes:
    return Classes.from_json((folder / "classes.json").read_bytes())


def named_labels(folder: Path) -> list[tuple[list[str], set[str]]]:
    """Hashtags and names of the classes of each sample."""
    names = [each.name for each in classes(folder).classes]
    return [(sample["hashtags"], {names[index] for index in sample["labels"]}) for sample in samples(folder)]


@pytest.mark.parametrize(
    ("raw", "spelling"),
    [
        ("#BrownBear", "brownbear"),
        (" brown_bear\n", "brownbear"),
        ("brown-bear", "brownbear"),
        ("ＢＲＯＷＮ　ＢＥＡＲ", "brownbear"),  # full width, with a full-width space
        ("＃熊", "熊"),
        ("くま・のみ", "くまのみ"),
        ("ｶﾞｰﾃﾞﾝ", "ガーデン"),  # half-width katakana with its sound marks
        ("Straße", "strasse"),
        ("ΟΔΟΣ", "οδοσ"),
        ("Йод", "йод"),
        ("cafe\u0301", "café"),
        ("ﬁsh", "fish"),
        ("हिन्दी", "हिन्दी"),  # vowel signs stay
        ("می\u200cخواهم", "میخواهم"),  # with a zero-width non-joiner
        ("❤\ufe0f", "❤"),
        ("k\u00adnit\u200b", "knit"),
        ("st._bernard's", "stbernards"),
        ("c++", "c++"),
        ("№1", "no1"),
        ("#don´t", "dont"),  # an acute accent for an apostrophe
        ("don`t", "dont"),
        ("a¨", "a"),
        ("か゛", "が"),
        ("ok〜", "ok"),
        ("ok～", "ok"),
        ("#İstanbul", "istanbul"),
        ("IŞIK", "işik"),  # without knowing that it is Turkish
        ("ışık", "ışık"),
        ("葛\U000e0100城", "葛城"),  # an ideographic variation selector
        ("ᠮᠣ\u180bᠩ", "ᠮᠣᠩ"),
        ("a\u034fb", "ab"),
        ("العـــربية", "العربية"),  # tatweel
        ("👋🏽", "👋🏽"),
        (ENGLAND := "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", ENGLAND),
        (SCOTLAND := "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f", SCOTLAND),
        ("🏴", "🏴"),
        ("a\U000e0067\ud83d", "a"),  # tags without a flag, half a surrogate pair
        ("###", ""),
        (" _ ", ""),
    ],
)
def test_a_hashtag_has_one_spelling(raw: str, spelling: str) -> None:
    assert normalise(raw) == unicodedata.normalize("NFKC", spelling)
    assert normalise(normalise(raw)) == normalise(raw)


def test_synonyms_of_wordnet_are_one_class(tmp_path: Path, wordnet: dict[str, str]) -> None:
    tags = [["#BrownBear", "ursus_arctos"], ["UrsusArctos"], ["bruin", "polar-bear"], ["sunset"], []]
    mds = label(photos(tmp_path / "photos", tags), tmp_path / "mds", "--wordnet", tmp_path / "dict")
    assert named_labels(mds) == [
        (tags[0], {BROWN_BEAR}),
        (tags[1], {BROWN_BEAR}),
        (tags[2], {BROWN_BEAR, "ice bear"}),
    ]
    found = classes(mds)
    brown, ice = found.classes
    assert found.images == 3
    assert (brown.synset, brown.count, brown.gloss) == (wordnet[BROWN_BEAR], 3, SYNSETS[BROWN_BEAR][1])
    assert brown.hashtags == {"ursusarctos": 2, "brownbear": 1, "bruin": 1}
    assert (ice.synset, ice.count, ice.hashtags) == (wordnet[POLAR_BEAR], 1, {"polarbear": 1})
    about = json.loads((mds / "dataset.json").read_text())
    assert about["counts"]["unlabelled"] == 2 and about["columns"]["labels"] == "ndarray:int32"
    report = (mds / "labels.txt").read_text()
    assert "with a class          3 (60.0 %)" in report
    assert "the most frequent hashtags without a class (1 in all)\n             1  sunset" in report
    assert (mds / "labels.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("policy", "expected"), [("first", {RIVER_BANK}), ("drop", set())])
def test_ambiguous_hashtags_take_the_most_frequent_sense_or_none(
    tmp_path: Path, wordnet: dict[str, str], policy: str, expected: set[str]
) -> None:
    source = photos(tmp_path / "photos", [["bank", "bruin"]])
    mds = label(source, tmp_path / "mds", "--wordnet", tmp_path / "dict", "--ambiguous", policy)
    assert named_labels(mds) == [(["bank", "bruin"], {BROWN_BEAR} | expected)]
    taken = f"{wordnet[RIVER_BANK]}, sloping land" if expected else "dropped"
    assert f"bank: {taken} (of 2 senses)" in (mds / "labels.txt").read_text()


@pytest.mark.parametrize("ending", ["tsv", "json"])
def test_a_table_adds_overrides_and_blocks(tmp_path: Path, wordnet: dict[str, str], ending: str) -> None:
    rows = {"#Sun_Set": "evening", "teddy": wordnet[BROWN_BEAR], "bank": wordnet[MONEY_BANK], "polar bear": ""}
    table = tmp_path / f"table.{ending}"
    lines = "".join(f"{hashtag}\t{name}\n" for hashtag, name in rows.items())
    table.write_text(lines if ending == "tsv" else json.dumps({tag: name or None for tag, name in rows.items()}))
    tags = [["sunset"], ["teddy", "bank"], ["polarbear"], ["bruin"], ["bank"]]
    source = photos(tmp_path / "photos", tags)
    mds = label(source, tmp_path / "mds", "--wordnet", tmp_path / "dict", "--table", table)
    expected = [(tags[0], {"evening"}), (tags[1], {BROWN_BEAR, MONEY_BANK}), (tags[3], {BROWN_BEAR})]
    assert named_labels(mds) == [*expected, (tags[4], {MONEY_BANK})]
    only = label(source, tmp_path / "only", "--canonical", "table", "--table", table)
    assert [tags for tags, _ in named_labels(only)] == [tags[0], tags[1], tags[4]]
    assert [each.synset for each in classes(only).classes] == [wordnet[MONEY_BANK], None, wordnet[BROWN_BEAR]]


def zipf(count: int) -> list[list[str]]:
    """Hashtags of few frequent and many rare kinds, some of them none of ours, some twice."""
    rng = np.random.default_rng(0)
    drawn = [(rng.zipf(1.4, rng.integers(0, 5)) - 1).tolist() for _ in range(count)]
    return [[f"#T{number}" if number % 2 else f"t_{number}" for number in row if number < 60] for row in drawn]


def brute_force(tags: list[list[str]], minimum: int, most: int) -> tuple[list[tuple[str, int]], list[set[str]]]:
    """Classes with their counts, and each image's."""
    spelled = [{tag.strip("#").replace("_", "").lower() for tag in row} for row in tags]
    counts = Counter(tag for row in spelled for tag in row)
    kept = sorted((item for item in counts.items() if item[1] >= minimum), key=lambda item: (-item[1], item[0]))[:most]
    names = {name for name, _ in kept}
    return kept, [row & names for row in spelled]


def test_classes_labels_and_groups_are_those_of_brute_force(tmp_path: Path) -> None:
    tags = zipf(400)
    options = ["--canonical", "none", "--min-count", 4, "--max-classes", 25, "--part-size", 30]
    source = photos(tmp_path / "photos", tags, caption="hm")
    mds = label(source, tmp_path / "mds", *options, "--group-images", 20, "--group-ratio", 1.2)
    expected, labels = brute_force(tags, minimum=4, most=25)
    found = classes(mds)
    assert [(each.name, each.count) for each in found.classes] == expected
    assert found.images == sum(map(bool, labels))

    names = sorted(str(path.relative_to(source)) for path in source.glob("*/*"))
    of_id = dict(zip(names, labels, strict=True))
    read = samples(mds)
    assert sorted(sample["id"] for sample in read) == [name for name in names if of_id[name]]
    for sample in read:
        assert {found.classes[index].name for index in sample["labels"]} == of_id[sample["id"]]
        assert sample["labels"].dtype == np.int32 and sample["labels"].tolist() == sorted(sample["labels"])
        assert sample["image"] == (source / sample["id"]).read_bytes() and sample["caption"] == "hm"

    about = DatasetFile.from_json((mds / "dataset.json").read_bytes())
    shards = json.loads((mds / "index.json").read_text())["shards"]
    frequency = {name: count / found.images for name, count in expected}
    assert about.classes == found.digest()
    assert len(about.groups) > 3 and sum(group.shards for group in about.groups) == len(shards)
    sizes = iter(shard["samples"] for shard in shards)
    rest = iter(read)
    highest = 0.0
    for group in about.groups:
        assert group.images == sum(next(sizes) for _ in range(group.shards)) >= 20
        images = [next(rest)["id"] for _ in range(group.images)]
        rarest = [min(frequency[name] for name in of_id[image]) for image in images]
        assert (group.lowest, group.highest) == (min(rarest), max(rarest))
        assert group.mean_inverse_root == pytest.approx(sum(1 / sqrt(f) for f in rarest) / len(rarest), rel=1e-12)
        assert group.lowest > highest
        if group is not about.groups[-1]:  # which may have taken in a small one
            assert group.highest <= 1.2 * group.lowest or sum(f < group.highest for f in rarest) < 20
        highest = group.highest


def test_classes_and_shards_are_the_same_for_one_and_two_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streaming_conversion.counting.RUN", 30)
    monkeypatch.setattr("streaming_conversion.labels.RUN", 30)
    photos(tmp_path / "photos", zipf(120))
    assert main(["folder", str(tmp_path / "photos"), str(tmp_path / "mds"), "--processes", "1"]) == 0
    options = ["--canonical", "none", "--min-count", 2, "--part-size", 20, "--group-images", 10]
    one = content(label(tmp_path / "photos", tmp_path / "photos1", *options))
    one_mds = content(label(tmp_path / "mds", tmp_path / "mds1", *options))
    two_mds = content(label(tmp_path / "mds", tmp_path / "mds2", *options, "--processes", 2))
    assert one_mds == two_mds and one.keys() == two_mds.keys()
    differing = {name for name, digest in one.items() if two_mds[name] != digest}
    assert differing == {"dataset.json"}  # it names the source


def test_runs_of_images_are_counted_alike_in_other_processes(tmp_path: Path) -> None:
    from streaming_conversion import counting
    from streaming_conversion.canonical import Canonical
    from streaming_conversion.source import Entry, Source

    tags = zipf(3 * counting.RUN + 1)
    entries = [Entry(str(number), str(number), tuple(row)) for number, row in enumerate(tags)]
    source = Source("label", {}, entries, bytes)
    one, two = (counting.count(source, Canonical("none"), processes) for processes in (1, 2))
    assert list(one.hashtags) == list(two.hashtags) and one.images == two.images == len(tags)
    assert dict(one.hashtags) == dict(brute_force(tags, 1, 10_000)[0])


def test_held_out_images_are_numbered_by_the_training_classes(tmp_path: Path) -> None:
    train = label(photos(tmp_path / "a", [["cat", "dog"], ["Dog"]]), tmp_path / "train", "--canonical", "none")
    held_out = photos(tmp_path / "b", [["bird"], ["cat"], ["DOG", "bird"]])
    val = label(held_out, tmp_path / "val", "--classes", train / "classes.json")
    assert named_labels(val) == [(["cat"], {"cat"}), (["DOG", "bird"], {"dog"})]
    assert (val / "classes.json").read_bytes() == (train / "classes.json").read_bytes()
    about = DatasetFile.from_json((val / "dataset.json").read_bytes())
    assert about.groups == [] and about.classes == classes(train).digest()


def test_several_training_sets_are_grouped_by_the_same_counts(tmp_path: Path) -> None:
    first = [["cat", "owl"], ["cat"], ["cat"], ["dog"], ["dog"]]
    a = label(photos(tmp_path / "a", first), tmp_path / "first", "--canonical", "none")
    second = photos(tmp_path / "b", [["cat"], ["dog", "cat"], ["owl"], ["bird"], ["cat"], ["owl", "cat"]])
    given = ["--classes", a / "classes.json", "--groups", "--group-images", 1]
    b = label(second, tmp_path / "second", *given)
    assert (b / "classes.json").read_bytes() == (a / "classes.json").read_bytes()
    tags = [sample["hashtags"] for sample in samples(b)]
    # owl 1, dog 2, cat 3 of 5 images in `first`
    assert [sorted(tags[:2]), tags[2], tags[3:]] == [[["owl"], ["owl", "cat"]], ["dog", "cat"], [["cat"], ["cat"]]]
    groups = DatasetFile.from_json((b / "dataset.json").read_bytes()).groups
    assert [(group.images, group.lowest, group.highest) for group in groups] == [
        (2, 1 / 5, 1 / 5),
        (1, 2 / 5, 2 / 5),
        (2, 3 / 5, 3 / 5),
    ]


def test_raw_hashtags_are_taken_letter_by_letter(tmp_path: Path, wordnet: dict[str, str]) -> None:
    tags = [["bear", "Bear"], ["ursus_arctos"], ["Bear", "ursusarctos"]]
    assert as_written("#Ｂear\ud83d") == "#Ｂear?"
    source = photos(tmp_path / "photos", tags)
    own = label(source, tmp_path / "own", "--canonical", "none", "--raw-hashtags")
    assert {each.name: each.count for each in classes(own).classes} == {
        "Bear": 2, "bear": 1, "ursus_arctos": 1, "ursusarctos": 1,
    }  # fmt: skip
    synsets = label(source, tmp_path / "synsets", "--raw-hashtags", "--wordnet", tmp_path / "dict")
    assert named_labels(synsets) == [(tags[1], {BROWN_BEAR})]
    held_out = photos(tmp_path / "held-out", [["bear"], ["BEAR"], ["Bear"]])
    val = label(held_out, tmp_path / "val", "--classes", own / "classes.json")
    assert named_labels(val) == [(["bear"], {"bear"}), (["Bear"], {"Bear"})]


def test_a_table_names_all_synsets_that_wordnet_lacks(
    tmp_path: Path, wordnet: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.tsv"
    table.write_text(f"a\tn99999999\nteddy\t{wordnet[BROWN_BEAR]}\nb\tn00000001\n")
    source = photos(tmp_path / "photos", [["teddy"]])
    error = failure(capsys, "label", source, tmp_path / "mds", "--wordnet", tmp_path / "dict", "--table", table)
    assert error == (
        f"{table} cannot be used: 2 problems:\n\n  {table}, line 1: WordNet has no synset n99999999\n"
        f"  {table}, line 3: WordNet has no synset n00000001\n"
    )


def test_where_each_hashtag_is_a_class_the_table_merges_by_the_very_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.tsv"
    table.write_text("kitty\tCat\npuppy\tdog\n")
    source = photos(tmp_path / "photos", [["kitty", "cat"], ["puppy", "Dog"], ["n02132136"]])
    mds = label(source, tmp_path / "mds", "--canonical", "none", "--table", table)
    assert [(each.name, each.count, each.synset) for each in classes(mds).classes] == [
        ("Cat", 1, None), ("cat", 1, None), ("dog", 1, None), ("n02132136", 1, None),
    ]  # fmt: skip
    said = capsys.readouterr().err
    assert "--table: Cat and cat are two classes; a class cat in the table is one with #cat\n" in said
    assert said.count("two classes") == 1


def test_both_passes_show_how_far_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[Any] = []

    def bar(**options: Any) -> Any:
        bars.append((options, tqdm(**options, file=io.StringIO())))
        return bars[-1][1]

    monkeypatch.setattr("streaming_conversion.processes.tqdm", bar)
    label(photos(tmp_path / "photos", [["a"], ["a"], []]), tmp_path / "mds", "--canonical", "none")
    assert [(options["desc"], bar.n, bar.total) for options, bar in bars] == [
        ("hashtags", 3, 3),
        ("labels", 3, 3),
        (None, 2, 2),
    ]


def test_groups_do_without_pictures_that_cannot_be_used(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos", [["rare"], ["common"], ["common"], ["common", "rare"]])
    broken = sorted(source.glob("*/*"))[0]
    broken.write_bytes(b"not a picture")
    options = ["--canonical", "none", "--group-images", 1, "--max-bad", 0.5]
    mds = label(source, tmp_path / "mds", *options)
    groups = DatasetFile.from_json((mds / "dataset.json").read_bytes()).groups
    assert [(group.images, group.shards, group.lowest) for group in groups] == [(1, 1, 0.5), (2, 1, 0.75)]
    broken.write_bytes(b"changed")
    label(source, mds, *options, "--overwrite")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tagged", "--wordnet", "{0}/dict"], "there is no WordNet in {0}/dict (index.noun and data.noun missing): "
         "install Debian's package wordnet-base, or name the dict folder of Princeton's WordNet with --wordnet, "
         "or do without: --canonical table or none\n"),
        (["bare", "--canonical", "none"], "{0}/bare has no hashtags: no line of its metadata.jsonl has any, or there "
         "is none\n"),
        (["shards", "--canonical", "none"], "{0}/shards/part-000000/shard.00000.mds has no column hashtags; it has id, "
         "image\n"),
        (["tagged", "--canonical", "none", "--min-count", "3"], "none of 2 images has a class; see to --canonical, "
         "--table and --min-count, or --classes. The most frequent hashtags are:\n\n  #cat: 2 images\n"),
        (["tagged", "--canonical", "table"], "--canonical table needs --table FILE\n"),
        (["tagged", "--canonical", "table", "--table", "{0}/bad.tsv"], "{0}/bad.tsv cannot be used: 3 problems:\n\n"
         "  {0}/bad.tsv, line 2: expected hashtag, tab, class, not ['dog animal']\n"
         "  {0}/bad.tsv, line 4: nothing is left of the hashtag '#'\n"
         "  {0}/bad.tsv, line 5: the hashtag cat has another class already ({0}/bad.tsv, line 1)\n"),
        (["tagged", "--classes", "{0}/bad.tsv"], "{0}/bad.tsv: classes.json is damaged: JSONDecodeError('Expecting "
         "value: line 1 column 1 (char 0)')\n"),
        (["tagged", "--classes", "{0}/bad.tsv", "--canonical", "none", "--min-count", "1"], "--canonical and "
         "--min-count would do nothing with --classes, whose classes and spelling are taken\n"),
        (["tagged", "--classes", "{0}/bad.tsv", "--group-images", "9"], "--group-images would do nothing without "
         "groups; --groups makes them\n"),
        (["tagged", "--no-groups", "--group-ratio", "2"], "--group-ratio would do nothing without groups; --groups "
         "makes them\n"),
        (["tagged", "--canonical", "none", "--wordnet", "{0}/dict", "--ambiguous", "first"], "--wordnet and "
         "--ambiguous would do nothing with --canonical none\n"),
    ],
)  # fmt: skip
def test_mistakes_have_one_clear_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    photos(tmp_path / "tagged", [["cat"], ["Cat"]])
    save_images(tmp_path / "bare", 2)
    assert main(["folder", str(tmp_path / "bare"), str(tmp_path / "shards"), "--processes", "1"]) == 0
    (tmp_path / "bad.tsv").write_text("cat\tanimal\ndog animal\n\n#\tnothing\n#Cat\tpet\n")
    source, *options = (text.format(tmp_path) for text in arguments)
    capsys.readouterr()
    command = ["label", tmp_path / source, tmp_path / "mds", "--processes", 1, *options]
    assert failure(capsys, *command) == message.format(tmp_path)
    assert not (tmp_path / "mds/index.json").exists()
