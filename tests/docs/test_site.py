"""The reference names everything that can be configured, and the site is built."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from maws_composer import registry
from maws_composer.config.plugins import load_with_ours, our_code_paths
from maws_composer.config.problems import ConfigError
from tests.processes import ROOT


@pytest.fixture
def ours_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No plugins of other tests in this process."""
    registry.load_plugins(our_code_paths())
    ours = tuple(str(ROOT / folder) for folder in ("maws_composer", "callbacks", "streaming_conversion"))
    entries = {
        key: {origin: entry for origin, entry in places.items() if origin.startswith(ours)}
        for key, places in registry._entries.items()
    }
    monkeypatch.setattr(registry, "_entries", {key: places for key, places in entries.items() if places})


def test_the_reference_names_every_key_of_a_run_and_of_an_evaluation(ours_alone: None) -> None:
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


def test_the_reference_says_which_algorithms_are_refused_and_why() -> None:
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    pytest.importorskip("docstring_parser", reason="the extra docs is not installed")
    table = hooks().reference().split("\n### algorithm: refused by name\n")[1].split("\n## ")[0]
    refused = registry.refusals("algorithm")
    assert {"mixup", "ema", "label_smoothing"} <= set(refused)
    for name, reason in refused.items():
        assert f"| `{name}` | {reason} |" in table


def test_a_plugin_that_cannot_be_loaded_fails_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    pytest.importorskip("docstring_parser", reason="the extra docs is not installed")
    (tmp_path / "broken.py").write_text("import nowhere_to_be_found")
    made = hooks()
    monkeypatch.setattr(made, "our_code_paths", lambda: [tmp_path / "broken.py"])
    with pytest.raises(ConfigError, match="No module named 'nowhere_to_be_found'"):
        made.reference()


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
