"""Plugins from a user's files, from modules and from installed packages come in by the same door as ours."""

import subprocess
import sys
from pathlib import Path

import pytest

from maws_composer import registry
from maws_composer.config.build import build, build_all
from maws_composer.config.load import load_run
from maws_composer.config.problems import ConfigError
from maws_composer.listing import describe
from tests.config.samples import Decoder, InputWait, Stage

MINE = """\
from composer import Callback
from maws_composer.registry import register_callback

@register_callback("mine")
class Mine(Callback):
    '''Counts.'''
    def __init__(self, upto: int = 3) -> None:
        self.upto = upto
"""


def test_a_stage_is_built_with_nested_settings_and_the_run(load):
    run = load("", "model.decoder.width=256").run
    stage = build(registry.lookup("stage", run.stage), run.model, run)
    assert isinstance(stage, Stage)
    assert (stage.size, stage.mask_ratio, stage.decoder, stage.run) == ("vit_b16", 0.75, Decoder(256), run)
    assert (
        build(registry.lookup("stage", "mae"), {"size": "vit_b16", "decoder": {"width": 32}}, run).decoder.width == 32
    )


def test_callbacks_are_built_in_their_order(load, write):
    write("mine/counter.py", MINE)
    run = load("code_paths: [mine]\ncallbacks: {mine: {upto: 5}, input_wait: null}\n").run
    mine, wait = build_all("callback", run.callbacks, run)
    assert (mine.upto, wait.every) == (5, "50ba")
    assert isinstance(wait, InputWait)


NEEDY = """\
from composer import Callback
from maws_composer.registry import register_callback

@register_callback("needy")
def needy() -> Callback:
    import a_package_that_nobody_has
"""


def test_a_package_that_is_missing_is_one_sentence(load, write):
    write("mine/needy.py", NEEDY)
    run = load("code_paths: [mine]\ncallbacks: {needy: null}\n").run
    with pytest.raises(ConfigError) as caught:
        build_all("callback", run.callbacks, run)
    assert [(one.path, one.message) for one in caught.value.problems] == [
        ("callbacks.needy", "No module named 'a_package_that_nobody_has'")
    ]


def test_arguments_that_were_never_checked_are_checked_when_something_is_built(load):
    with pytest.raises(ConfigError) as caught:
        build(registry.lookup("callback", "input_wait"), {"evry": 3}, load().run)
    assert [(one.path, one.message) for one in caught.value.problems] == [("evry", "unknown key; nearest is every")]


def test_folders_files_and_modules(load, write, folder, monkeypatch):
    write("mine/counter.py", MINE)
    write("mine/_helper.py", "raise RuntimeError('not a plugin')")
    write("other.py", MINE.replace('"mine"', '"other"'))
    write("my_package_of_plugins/__init__.py", MINE.replace('"mine"', '"third"'))
    monkeypatch.syspath_prepend(str(folder))
    load("code_paths: [mine, other.py, my_package_of_plugins]\ncallbacks: {mine: , other: {upto: 1}, third: }\n")
    assert registry.names("callback") == ["input_wait", "mine", "other", "third"]
    del sys.modules["my_package_of_plugins"]


def test_the_same_folder_may_be_read_twice(load, write):
    write("mine/counter.py", MINE)
    for _ in range(2):
        load("code_paths: [mine]\ncallbacks: {mine: }\n")
    load_run("run.yaml", code_paths=["mine"])


def test_where_plugins_were_looked_for(mistakes, write):
    write("mine/counter.py", MINE)
    assert mistakes("code_paths: [mine]\ncallbacks: {mien: }\n") == [
        (
            "callbacks.mien",
            "unknown callback 'mien'; nearest is mine; looked in maws_composer, mine, installed packages",
            "run.yaml, line 8",
        )
    ]


def test_a_file_that_cannot_be_imported_is_one_problem_and_breaks_nothing_else(mistakes, write):
    write("mine/a.py", MINE)
    write("mine/b.py", "import no_such_module_of_mine\n")
    write("mine/c.py", "def f(:\n")
    found = mistakes("code_paths: [mine]\ncallbacks: {mine: {upto: many}}\n")
    assert [(path, message.splitlines()[0], where) for path, message, where in found] == [
        ("code_paths", "mine/b.py cannot be imported:", "run.yaml, line 7"),
        ("code_paths", "mine/c.py cannot be imported:", "run.yaml, line 7"),
        ("callbacks.mine.upto", "expected a whole number, got 'many'", "run.yaml, line 8"),
    ]
    assert 'mine/b.py", line 1, in <module>\n    import no_such_module_of_mine' in found[0][1]
    assert found[0][1].endswith("ModuleNotFoundError: No module named 'no_such_module_of_mine'")
    assert found[1][1].endswith("SyntaxError: invalid syntax")


def line_of_the_class(text: str) -> int:
    """Python 3.10 calls a class's decorator from the line of `class`, 3.11 from its own."""
    wanted = "class" if sys.version_info < (3, 11) else "@register"
    return next(number for number, line in enumerate(text.splitlines(), start=1) if line.startswith(wanted))


def test_two_plugins_of_one_name(mistakes, write, folder):
    write("mine/a.py", MINE)
    write("mine/b.py", "\n" + MINE)
    line = line_of_the_class(MINE)
    assert mistakes("code_paths: [mine]\ncallbacks: {mine: }\n") == [
        (
            "code_paths",
            f"two callbacks are named 'mine': {folder}/mine/a.py:{line} and {folder}/mine/b.py:{line + 1}",
            "run.yaml, line 7",
        )
    ]


def test_a_signature_without_types_cannot_be_used(mistakes, write):
    write("mine.py", MINE.replace("upto: int = 3", "upto=3"))
    assert mistakes("code_paths: [mine.py]\ncallbacks: {mine: }\n") == [
        ("callbacks.mine", "the callback 'mine' cannot be used: its argument upto has no type", "run.yaml, line 8")
    ]


@pytest.fixture
def package(write, folder, monkeypatch):
    """An installed package that offers a callback."""
    write(
        "site/their_package.py",
        "from composer import Callback\n"
        "class Theirs(Callback):\n    def __init__(self, often: bool = True) -> None: ...\n",
    )
    write("site/their_package-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    write(
        "site/their_package-1.0.dist-info/entry_points.txt",
        "[maws_composer.callbacks]\ntheirs = their_package:Theirs\nbroken = their_package:Nothing\n",
    )
    monkeypatch.syspath_prepend(str(folder / "site"))
    yield
    sys.modules.pop("their_package", None)


@pytest.mark.usefixtures("package")
def test_plugins_of_installed_packages(load, mistakes):
    assert "their_package" not in sys.modules
    load("")
    assert registry.names("callback") == ["broken", "input_wait", "theirs"]
    assert "their_package" not in sys.modules  # imported only when somebody asks for it
    assert load("callbacks: {theirs: {often: false}}\n").run.callbacks == {"theirs": {"often": False}}
    ((path, message, where),) = mistakes("callbacks: {broken: }\n")
    assert (path, where) == ("callbacks.broken", "run.yaml, line 7")
    assert message.startswith("the package their-package (their_package:Nothing) cannot be imported:\n")
    assert message.endswith("AttributeError: module 'their_package' has no attribute 'Nothing'")


@pytest.mark.usefixtures("package")
def test_a_package_and_a_file_of_one_name(mistakes, write, folder):
    write("mine.py", MINE.replace('"mine"', '"theirs"'))
    assert mistakes("code_paths: [mine.py]\n") == [
        (
            "code_paths",
            f"two callbacks are named 'theirs': {folder}/mine.py:{line_of_the_class(MINE)}"
            " and the package their-package (their_package:Theirs)",
            "run.yaml, line 7",
        )
    ]


def test_a_plugin_describes_itself():
    text = describe("stage", "mae")
    assert text.splitlines()[0].startswith("stage mae  (")
    assert text.splitlines()[2:5] == [
        "  size: str (name of a size)  required",
        "  mask_ratio: float (above 0, below 1)  = 0.75",
        "  decoder: Decoder  = Decoder(width=512, heads=16)",
    ]
    assert text.endswith("  Hides patches.\n\n  Args:\n      size: the encoder.")
    with pytest.raises(ConfigError, match="unknown stage 'mea'; nearest is mae"):
        describe("stage", "mea")


def test_a_configuration_is_read_without_torch():
    code = "import sys, maws_composer.config.plugins; assert not {'torch', 'composer', 'streaming'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(registry.__file__).parents[1])
