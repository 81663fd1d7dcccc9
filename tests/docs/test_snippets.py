"""Every snippet of the documentation is what it says: YAML loads, Python runs, command lines are understood."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from maws_composer import cli, registry
from maws_composer.config.plugins import load_with_ours, our_code_paths
from maws_composer.config.problems import ConfigError, format_problems
from maws_composer.evaluation.settings import load_evaluation
from streaming_conversion import cli as conversion
from tests.processes import ROOT

PAGES = sorted((ROOT / "docs/pages").glob("*.md"))
_FENCE = re.compile(
    r"(?:<!-- onto: (?P<onto>\S+) -->\n)?```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)\n```\n",
    re.DOTALL,
)
# what nobody can type for us: it is another program's
FOREIGN = {"source", "kubectl", "sky", "pip"}


class Snippet(NamedTuple):
    """A fenced block: `onto` is the recipe that a fragment of YAML belongs to, `title` the file that it is."""

    page: str
    line: int
    language: str
    title: str | None
    onto: str | None
    text: str


def snippets(*languages: str) -> list[Snippet]:
    found = []
    for page in PAGES:
        text = page.read_text()
        for match in _FENCE.finditer(text):
            line = text.count("\n", 0, match.start("text")) + 1
            snippet = Snippet(page.stem, line, match["language"], match["title"], match["onto"], match["text"])
            found += [snippet] if snippet.language in languages else []
    return found


def place_of(snippet: Snippet) -> str:
    return f"{snippet.page}:{snippet.line}"


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
    registry.load_plugins(our_code_paths())  # ours stay: nobody imports them twice
    entries = {key: dict(value) for key, value in registry._entries.items()}
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)
    registry._entries.clear()
    registry._entries.update(entries)


def test_every_fence_is_one_of_a_language_that_is_checked() -> None:
    known = {"yaml", "python", "sh", "json", "toml", "text"}
    opened = {(page.stem, word) for page in PAGES for word in re.findall(r"^```(\w+)", page.read_text(), re.MULTILINE)}
    assert {language for _, language in opened} <= known
    fences = sum(len(re.findall(r"^```\w+", page.read_text(), re.MULTILINE)) for page in PAGES)
    assert fences == len(snippets(*known)) > 50


@pytest.mark.parametrize("snippet", snippets("yaml"), ids=place_of)
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


@pytest.mark.parametrize("snippet", snippets("python"), ids=place_of)
def test_python_runs_and_plugins_register(snippet: Snippet, folder: Path) -> None:
    problems = registry.load_plugins([*our_code_paths(), snippet.title or f"{snippet.page}_{snippet.line}.py"])
    assert not problems
    names = re.findall(r"register_(\w+)\(\"(\w+)\"\)", snippet.text)
    assert {tuple(name) for name in names} <= set(registry._entries)
    assert bool(names) == (snippet.page == "plugins")
    assert len(snippet.text.splitlines()) <= 25


def commands() -> list[tuple[str, str]]:
    """Place and text of each command line, those of several lines put together."""
    found = []
    for snippet in snippets("sh"):
        lines = re.sub(r"\\\n\s*", " ", snippet.text).splitlines()
        found += [(place_of(snippet), line) for line in lines if line.strip()]
    return found


@pytest.mark.parametrize(("place", "command"), commands(), ids=lambda each: each if ":" in each[:24] else "")
def test_command_lines_are_understood(place: str, command: str, folder: Path) -> None:
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif words[:2] == ["python", "-m"] and words[2] == "streaming_conversion":
        conversion._parser([]).parse_args(words[3:])
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]) is not None
    elif words[0] == "maws-composer":
        understand(cli._parser().parse_args(words[1:]))
    elif words[0] in ("composer", "python"):
        script = next(index for index, word in enumerate(words) if word.endswith(".py"))
        understand_script(words[script], words[script + 1 :])
    elif words[0] == "sbatch":
        assert (folder / words[1]).exists()
        understand_script("train.py", words[2:])
    else:
        assert words[0] in FOREIGN, f"{place}: {command}"
        assert all((folder / word).exists() for word in words if word.startswith("clusters/"))


def understand(options) -> None:
    """Of maws-composer, what its own parser leaves to others."""
    if options.command == "launch":
        understand_script(options.script, options.arguments)
    elif options.command == "plan":
        configs = [word for word in options.config if "=" not in word]
        for config in configs:
            load_with_ours(config, [word for word in options.config if "=" in word], options.gpus)


def understand_script(script: str, arguments: list[str]) -> None:
    config, *overrides = [argument for argument in arguments if argument != "--print"]
    if script == "evaluate.py":
        load_evaluation(config, overrides)
        return
    assert script == "train.py"
    if not Path(config).exists():  # a recipe that the page shows
        assert any(f"# {config}\n" in snippet.text for snippet in snippets("yaml"))
        return
    load_with_ours(config, overrides)


@pytest.mark.parametrize("snippet", snippets("json", "toml"), ids=place_of)
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


def messages() -> set[str]:
    """Every text that the code holds, … for what is put into it."""
    found = set()
    for file in [*(ROOT / "maws_composer").rglob("*.py"), *(ROOT / "streaming_conversion").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(re.sub(r"%[\d.]*[sdf]", "…", node.value))
            elif isinstance(node, ast.JoinedStr):
                found.add("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
    return found


def test_errors_that_are_explained_are_errors_that_there_are() -> None:
    explained = re.findall(r"^### `(.+)`$", (ROOT / "docs/pages/errors.md").read_text(), re.MULTILINE)
    known = messages()
    assert len(explained) > 20
    for message in explained:
        assert any(message.strip("… :;,.") in text for text in known), message


def test_the_mistakes_that_the_first_page_shows_are_told_like_that(folder: Path) -> None:
    (shown,) = (snippet.text for snippet in snippets("text") if snippet.page == "getting-started")
    with pytest.raises(ConfigError) as refused:
        overrides = ["data.train.remote=s3://bucket/images", "model.mask_ration=0.6"]
        load_with_ours("yamls/mae_vitb.yaml", overrides, world_size=3)
    assert format_problems("yamls/mae_vitb.yaml", refused.value.problems) == shown


def test_the_reference_names_every_key_of_a_run_and_of_an_evaluation() -> None:
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    pytest.importorskip("docstring_parser", reason="the extra docs is not installed")
    text = hooks().reference()
    for path in (ROOT / "yamls").glob("*.yaml"):
        overrides = ["data.train.remote=s3://b/i", "initialize_from=runs/x"]
        for key in leaves(load_with_ours(path, overrides).resolved):
            *section, name = key.split(".")
            if section[:1] in (["model"], ["loggers"], ["callbacks"]):
                continue  # of plugins, each in its own table
            if (
                section in (["optimizer"], ["schedule"])
                and f"| `{name}` |" in text.split(f"\n### {section[0]}: ", 1)[1]
            ):
                continue
            table = text.split(f"\n### {'.'.join(section)}\n" if section else "\n## Training\n", 1)
            assert len(table) == 2 and f"| `{name}` |" in table[1].split("\n## ")[0].split("\n### ")[0], key
    for kind in registry.KINDS:
        for name in registry.names(kind):
            assert f"\n### {kind}: {name}\n" in text
    assert "|  |" not in text  # everything is explained
    assert "object at 0x" not in text and "typing." not in text and "Annotated" not in text


def leaves(data: dict, path: str = "") -> Iterator[str]:
    for key, value in data.items():
        if isinstance(value, dict) and value and path.split(".")[0] not in ("model", "loggers", "callbacks"):
            yield from leaves(value, f"{path}.{key}".lstrip("."))
        else:
            yield f"{path}.{key}".lstrip(".")


def hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs/hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_site_is_built_without_a_warning_and_without_the_network(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the extra docs is not installed")
    pytest.importorskip("docstring_parser", reason="the extra docs is not installed")
    from mkdocs.__main__ import cli as mkdocs

    with contextlib.redirect_stderr(io.StringIO()) as told, pytest.raises(SystemExit) as ended:
        mkdocs(["build", "--strict", "--quiet", "-f", str(ROOT / "docs/mkdocs.yml"), "-d", str(tmp_path / "site")])
    assert ended.value.code == 0, told.getvalue()
    for page in (tmp_path / "site").rglob("*.html"):
        fetched = re.findall(r"<(?:link|script|img)[^>]+(?:href|src)=\"?(https?://[^\"> ]+)", page.read_text())
        assert not fetched, page
    assert "global_train_batch_size" in (tmp_path / "site/reference.html").read_text()
