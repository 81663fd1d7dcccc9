"""Plugins that are wrong in one way each: what is wrong is said, with its place, and the sound one beside works."""

from __future__ import annotations

from pathlib import Path

import pytest

from maws_composer import registry
from maws_composer.config.load import load_run
from maws_composer.config.plugins import OURS
from maws_composer.config.problems import ConfigError

HEAD = "from composer import Callback\nfrom maws_composer.registry import register_callback\n"
SOUND = HEAD + "@register_callback('sound')\nclass Sound(Callback):\n    def __init__(self, every: int = 1): ...\n"
OTHER = SOUND.replace("sound", "other").replace("every: int = 1", "{}")
RUN = """\
stage: mae
model: {size: vit_micro, image_size: 24}
data: {train: {remote: s3://bucket/images}}
global_train_batch_size: 16
max_duration: 160sp
code_paths: [mine]
callbacks: {sound: {every: 2}, CALLBACKS}
"""
AT_IMPORT = {  # what the second file says -> first and last line of the problem
    "syntax error": ("def f(:\n", "SyntaxError: invalid syntax"),
    "import error": ("from composer import Nothing\n", "ImportError: cannot import name 'Nothing' from 'composer'"),
    "missing dependency": ("import nobody_has_this\n", "ModuleNotFoundError: No module named 'nobody_has_this'"),
    "exception": ("\nraise RuntimeError('a bug of mine')\n", "RuntimeError: a bug of mine"),
    "sys.exit": ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
}
SAID = {  # the second file -> all problems
    "untyped argument": (
        OTHER.format("every=1"),
        "the callback 'other' cannot be used: its argument every has no type",
    ),
    "default of a wrong type": (
        OTHER.format("every: int = '1'"),
        "the callback 'other' cannot be used: its argument every is int, but its default '1' is not",
    ),
    "no callback at all": (
        OTHER.format("every: int = 1").replace("Sound(Callback)", "Sound"),
        "the callback 'other' cannot be used: Sound is not derived from composer.core.callback.Callback",
    ),
    "type that no YAML can hold": (
        OTHER.format("every: Callback"),
        "the callback 'other' cannot be used: its arguments have a type that a YAML cannot hold: Unable to generate "
        "pydantic-core schema for <class 'composer.core.callback.Callback'>. Set `arbitrary_types_allowed=True` in the "
        "model_config to ignore this error or implement `__get_pydantic_core_schema__` on your type to fully support "
        "it.",
    ),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    registry.load_plugins(OURS)
    entries = {named: dict(places) for named, places in registry._entries.items()}
    monkeypatch.setattr(registry, "_entries", entries)
    monkeypatch.setattr(registry, "_loaded", dict(registry._loaded))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/sound.py").write_text(SOUND)
    return tmp_path


def problems(second: str, callbacks: str = "other: {}") -> list[tuple[str, str]]:
    Path("mine/wrong.py").write_text(second)
    Path("run.yaml").write_text(RUN.replace("CALLBACKS", callbacks))
    with pytest.raises(ConfigError) as caught:
        load_run("run.yaml", code_paths=OURS)
    return [(problem.path, problem.message) for problem in caught.value.problems]


@pytest.mark.parametrize("what", AT_IMPORT)
def test_a_file_that_fails_on_import(what: str) -> None:
    text, last = AT_IMPORT[what]
    ((path, message),) = problems(text, callbacks="")
    assert (path, message.splitlines()[0]) == ("code_paths", "mine/wrong.py cannot be imported:")
    assert "mine/wrong.py" in "".join(message.splitlines()[1:])
    assert message.splitlines()[-1].startswith(last)


def test_a_file_that_fails_on_import_is_told_with_all_frames_of_its_author(folder: Path) -> None:
    (folder / "mine/_helper.py").write_text("def compute():\n    return {}['width']\n")
    second = (
        "import sys\nsys.path.insert(0, 'mine')\ndef make():\n    from _helper import compute\n    compute()\nmake()\n"
    )
    ((_, message),) = problems(second, callbacks="")
    assert message.splitlines()[0] == "mine/wrong.py cannot be imported:"
    frames = [line.strip() for line in message.splitlines() if line.lstrip().startswith("File ")]
    assert [frame.partition(", ")[2] for frame in frames] == [
        "line 6, in <module>", "line 5, in make", "line 2, in compute",
    ]  # fmt: skip
    assert str(folder / "mine/wrong.py") in frames[0] and "_helper.py" in frames[2]
    assert message.endswith("KeyError: 'width'")


@pytest.mark.parametrize("what", SAID)
def test_a_plugin_that_cannot_be_used(what: str) -> None:
    text, message = SAID[what]
    assert problems(text) == [("callbacks.other", message)]


def test_all_wrong_arguments_are_named_at_once() -> None:
    text = OTHER.format("every: int, share: float, name: str = ''")
    assert problems(text, "other: {evry: 1, share: much}") == [
        ("callbacks.other.every", "missing; required"),
        ("callbacks.other.share", "expected a number, got 'much'"),
        ("callbacks.other.evry", "unknown key; nearest is callbacks.other.every"),
    ]


def test_two_files_of_one_name(folder: Path) -> None:
    ((path, message),) = problems(SOUND, callbacks="")
    assert path == "code_paths"
    assert message.startswith("two callbacks are named 'sound': ")
    assert str(folder / "mine/sound.py") in message and str(folder / "mine/wrong.py") in message


def test_a_name_of_ours(folder: Path) -> None:
    text = "from maws_composer.registry import register_optimizer\nregister_optimizer('adamw')(object)\n"
    ((path, message),) = problems(text, callbacks="")
    assert path == "code_paths" and message.startswith("two optimizers are named 'adamw': ")
    assert "optim/adamw.py" in message and str(folder / "mine/wrong.py") in message


def test_a_kind_that_there_is_not() -> None:
    ((_, message),) = problems("from maws_composer.registry import register\nregister('calback', 'a')(int)\n", "")
    assert "ValueError: 'calback' is no kind of plugin; there are stage, callback," in message


def test_a_function_that_makes_something_else(folder: Path) -> None:
    from maws_composer.config.build import build_all

    (folder / "f.py").write_text(HEAD + "@register_callback('f')\ndef f() -> object:\n    return 3\n")
    registry.load_plugins(["f.py"])
    with pytest.raises(ConfigError, match="callback f: made an object whose class int is not derived from"):
        build_all("callback", {"f": None}, None)


def test_an_unknown_optimizer_and_its_section() -> None:
    Path("run.yaml").write_text(RUN.replace("CALLBACKS", "") + "optimizer: {name: adam_w, lr: 3}\n")
    with pytest.raises(ConfigError) as caught:
        load_run("run.yaml", code_paths=OURS)
    ((path, message),) = [(problem.path, problem.message) for problem in caught.value.problems]
    assert path == "optimizer.name" and message.startswith("unknown optimizer 'adam_w'; nearest is adamw")
