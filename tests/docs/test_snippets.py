"""Every snippet of the documentation is what it says: YAML loads, Python runs. For commands see `test_commands`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file
from streaming import StreamingDataset

from maws_composer import registry
from maws_composer.cli import main
from maws_composer.config.plugins import load_with_ours, our_code_paths
from maws_composer.config.problems import ConfigError, format_problems
from maws_composer.evaluation.settings import load_evaluation
from maws_composer.weights.sources import open_encoder
from streaming_conversion.cli import main as convert
from tests.docs.reading import LANGUAGES, PAGES, Snippet, snippets
from tests.docs.registered import only_for_now
from tests.processes import ROOT
from tests.runs import Runs
from tests.weights.saved import autoencoder, same_bytes, save_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder as a reader has it: our yamls, and the Python files of the pages; what they register goes again."""
    folder = tmp_path_factory.mktemp("docs")
    for name in ("yamls", "clusters", "callbacks"):
        (folder / name).symlink_to(ROOT / name)
    for snippet in snippets("python"):
        file = folder / (snippet.title or f"{snippet.page}_{snippet.line}.py")
        file.parent.mkdir(exist_ok=True)
        file.write_text(snippet.text)
    before = Path.cwd()
    os.chdir(folder)
    with only_for_now():
        yield folder
    os.chdir(before)


def test_every_fence_is_one_of_a_language_that_is_checked() -> None:
    opened = [word for page in PAGES for word in re.findall(r"^```(\w+)", page.read_text(), re.MULTILINE)]
    assert set(opened) <= set(LANGUAGES)
    assert len(opened) == len([each for each in snippets(*LANGUAGES) if each.page != "README"]) > 50


@pytest.mark.parametrize("snippet", snippets("yaml"), ids=lambda each: each.place)
def test_yaml_is_loaded_by_the_loader_that_training_uses(snippet: Snippet, folder: Path) -> None:
    content = yaml.safe_load(snippet.text)
    if snippet.title:  # a file of another kind, which the page names
        (folder / snippet.title).write_text(snippet.text)
        assert isinstance(content, dict) and content
        return
    file = folder / f"{snippet.page}_{snippet.line}.yaml"
    if "weights" in content:
        file.write_text(snippet.text)
        assert load_evaluation(file).run.weights == content["weights"]
        return
    onto = {} if "base" in content else {"base": snippet.onto or "yamls/mae_vitb.yaml"}
    file.write_text(yaml.safe_dump({**onto, **content}))
    told = load_with_ours(file, needed(content)).provenance
    written = {key for key, where in told.items() if where.startswith(str(file))}
    assert {key.split(".")[0] for key in written} >= set(content) - {"base"}


def needed(content: dict) -> list[str]:
    """What a fragment leaves to its reader."""
    train = content.get("data", {}).get("train", {})
    return (
        []
        if {"remote", "local", "streams", "dataset"} & set(train) or "base" in content
        else ["data.train.remote=s3://b/i"]
    )


@pytest.mark.parametrize("snippet", snippets("python"), ids=lambda each: each.place)
def test_python_runs_and_plugins_register(snippet: Snippet, folder: Path) -> None:
    problems = registry.load_plugins([*our_code_paths(), snippet.title or f"{snippet.page}_{snippet.line}.py"])
    assert not problems
    names = re.findall(r"register_(\w+)\(\"(\w+)\"\)", snippet.text)
    assert {tuple(name) for name in names} <= set(registry._entries)
    assert bool(names) == (snippet.page == "plugins")
    assert len(snippet.text.splitlines()) <= 25


@pytest.mark.parametrize("snippet", snippets("json", "toml"), ids=lambda each: each.place)
def test_examples_of_files_can_be_read(snippet: Snippet) -> None:
    assert (json.loads if snippet.language == "json" else pytest.importorskip("tomllib").loads)(snippet.text)


def test_the_evaluation_of_the_page_on_plugins_is_right(folder: Path) -> None:
    import torch

    from maws_composer.evaluation.features import Features

    registry.load_plugins([*our_code_paths(), "my_plugins/nearest_mean.py"])
    evaluate = registry.lookup("evaluation", "nearest_mean").builder()
    train = Features(torch.tensor([[0.0], [1.0], [10.0], [11.0]]), torch.tensor([[3], [3], [5], [5]]))
    test = Features(torch.tensor([[2.0], [9.0], [0.0]]), torch.tensor([[3], [5], [5]]))
    assert evaluate(train, test).figures["top1"] == pytest.approx(2 / 3)


def test_the_reader_of_the_page_on_plugins_converts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "jpegs").mkdir()
    for number in range(5):
        Image.new("RGB", (32, 32), (50 * number, 0, 0)).save(folder / "jpegs" / f"{number}.jpg")
    plugin = ["--code-path", "my_plugins/numbered.py", "--set", "folder=jpegs"]
    assert convert(["numbered", "mds", *plugin, "--processes", "1"]) == 0, capsys.readouterr().err
    dataset = StreamingDataset(local="mds", batch_size=1)
    found = {dataset[number]["id"]: dataset[number]["image"] for number in range(5)}
    assert found == {path.stem: path.read_bytes() for path in (folder / "jpegs").iterdir()}


def test_the_layout_of_the_page_on_plugins_is_written_and_read_again(folder: Path) -> None:
    registry.load_plugins(our_code_paths())
    model = autoencoder(registry.lookup("size", "vit_micro").builder)
    save_run(folder / "run", model, "vit_micro")
    assert main(["export", "run", "--to", "prefixed", "prefixed", "--code-path", "my_plugins/"]) == 0
    assert all(name.startswith("mine/") for name in load_file("prefixed/model.safetensors"))
    read = open_encoder("prefixed/model.safetensors")
    same_bytes({name: read.read(name) for name in read.shapes}, model.encoder.state_dict())


@pytest.mark.slow
def test_a_run_uses_what_the_page_on_plugins_has(folder: Path, runs: Runs) -> None:
    """The fragments of its YAML together, but for the size, which is large, and what is for LiT."""
    fragments = [yaml.safe_load(each.text) for each in snippets("yaml") if each.page == "plugins" and not each.onto]
    mine = {"base": str(runs.recipe)}
    for fragment in fragments:
        if "weights" not in fragment and "size" not in fragment.get("model", {}):
            mine |= fragment
    mine |= {"code_paths": [str(folder / "my_plugins")], "algorithms": {"centralized_gradients": {"share": 0.5}}}
    (runs.folder / "mine.yaml").write_text(yaml.safe_dump(mine))
    losses = runs.folder / "losses.txt"
    small = ("data.train.transform.size=24", "max_duration=320sp", f"loggers.one_line.file={losses}")
    done = runs("mine", *small, config=runs.folder / "mine.yaml")
    assert done.code == 0, done.output
    assert {"stage", "optimizer", "schedule", "callbacks", "loggers"} <= set(mine)
    assert [float(line) for line in losses.read_text().split()] == pytest.approx(done.losses, rel=1e-5)
    brightest = [step["data/brightest"] for step in done.steps if "data/brightest" in step]
    assert len(brightest) == 2 and all(200 < each <= 255 for each in brightest)  # every tenth of twenty batches


def test_the_mistakes_that_the_first_page_shows_are_told_like_that(folder: Path) -> None:
    (shown,) = (snippet.text for snippet in snippets("text") if snippet.page == "getting-started")
    with pytest.raises(ConfigError) as refused:
        overrides = ["data.train.remote=s3://bucket/images", "model.mask_ration=0.6"]
        load_with_ours("yamls/mae_vitb.yaml", overrides, world_size=3)
    assert format_problems("yamls/mae_vitb.yaml", refused.value.problems) == shown
