"""Every command of README and the pages is run as it is written, page by page, on pictures and runs in miniature.

Each page has a folder and a bucket of its own, and its commands follow one another as on the page. What trains or
evaluates is slow, and gets a tiny model; where it is left out, the page's other commands find a run that looks trained.
Slow is also what has been run like that before, on this page or another.
What cannot be run here says why. Of all of them it is checked that files, options and keys exist.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from maws_composer import cli, registry
from maws_composer.config.plugins import load_with_ours, our_code_paths
from maws_composer.evaluation.settings import load_evaluation
from maws_composer.resilience import notice
from streaming_conversion import cli as conversion
from tests.docs.reading import Command, commands, snippets
from tests.docs.registered import only_for_now
from tests.docs.world import BUCKET, CLASSES, make_world
from tests.processes import ROOT, free_port
from tests.s3_server import S3Server

# how commands begin that are not run -> why
NOT_HERE = {
    "make ": "installs into .venv, or is one of CI's own jobs",
    "pip install": "installs from the network",
    "source ": "changes the shell that it is typed into",
    "sbatch ": "needs Slurm",
    "kubectl ": "needs Kubernetes",
    "sky ": "needs a cloud",
    "python -m benchmarks.": "takes minutes, for figures",
}
_CONVERSION = ["--scratch", "scratch", "--processes", "1"]
# how commands begin -> what is added for small data and one machine; the last of several options counts
ADDED = {
    "python -m streaming_conversion label pictures": [*_CONVERSION, "--wordnet", "wordnet"],
    "python -m streaming_conversion label ~/pictures": [*_CONVERSION, "--wordnet", "wordnet"],
    "python -m streaming_conversion ": _CONVERSION,
    "maws-composer embed": ["--scratch", "scratch", "--workers", "0"],
}
_SMALL = [
    "precision=fp32", "global_train_batch_size=8", "max_duration=16sp", "data.train.num_canonical_nodes=1",
    "data.train.shuffle_block_size=64", "save_interval=1ba", "save_keep_every=null", "eval_interval=1ba",
    "speed.workers=0", "speed.scratch_folder=scratch", "model.size=vit_micro", "model.image_size=24",
    "data.train.max_left_out_share=0.5", "speed.compile=false",
]  # fmt: skip
SMALL_TRAINING = {
    "mae": [*_SMALL, "model.decoder={width: 32, depth: 1, heads: 2}"],
    "wsp": [
        *_SMALL,
        f"model.num_classes={CLASSES}",
        "model.frequency_thirds=false",
        "data.train.resampling={threshold: 1.0e-3, epoch_size: null}",
    ],
    "lit": [*_SMALL, "model.text={name: small-tower, pretrained: false, context_length: 20}", "model.embed_dim=16"],
}
SMALL_EVALUATION = [
    "precision=fp32", "speed.workers=0", "speed.scratch_folder=scratch", "evaluations.linear_probe.epochs=2",
    "evaluations.linear_probe.warmup_epochs=1", "evaluations.linear_probe.batch_size=16", "evaluations.knn.k=3",
    "evaluations.linear_probe.held_out=0.2",
]  # fmt: skip
DRAWING = "python -m streaming_conversion openmoji data/quickstart"  # thousands of pictures


def is_slow(command: Command) -> bool:
    """Trains, evaluates, or draws thousands of pictures."""
    return (".py " in command.text and "--print" not in command.text) or command.text == DRAWING


def why_not_here(command: Command) -> str | None:
    return next((why for start, why in NOT_HERE.items() if command.text.startswith(start)), None)


def parameters() -> list:
    """Each command, and the mark slow for those that are, or that have been run like that before."""
    found, kinds = [], set()
    for command in commands():
        slow = is_slow(command) or (kind_of(command) in kinds and not why_not_here(command))
        found.append(pytest.param(command, marks=[pytest.mark.slow] if slow else [], id=command.place))
        kinds.add(kind_of(command))
    return found


def kind_of(command: Command) -> tuple[str, ...]:
    """The program, and what is chosen by name."""
    words = shlex.split(command.text, comments=True)
    choosing = ("-m", "streaming_conversion", "--to")
    return (*words[:2], *(word for option, word in pairwise(words) if option in choosing))


@pytest.fixture
def folder(
    command: Command, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:  # fmt: skip
    """The working directory of the command's page, as the commands before it left it."""
    if why := why_not_here(command):
        pytest.skip(why)
    server: S3Server = request.getfixturevalue("s3")
    folder = tmp_path_factory.getbasetemp() / "pages" / command.page
    for name, value in {**server.environment, "HOME": str(folder)}.items():
        monkeypatch.setenv(name, value)
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        shutil.rmtree(server.bucket("bucket"))
        registry.load_plugins(our_code_paths())
        trained = _trained_on(command.page, request.session.items)
        with as_it_was():
            make_world(command.page, folder, server.bucket("bucket"), trained)
        for snippet in snippets("yaml", "python"):
            if snippet.page == command.page and snippet.file:
                (folder / snippet.file).parent.mkdir(exist_ok=True)
                (folder / snippet.file).write_text(snippet.text)
    monkeypatch.chdir(folder)
    return folder


def _trained_on(page: str, selected: list[pytest.Item]) -> set[str]:
    """Folders of runs that commands of the page train, if these are run."""
    this = test_a_command_works_as_it_is_written.__name__
    run = [item.callspec.params["command"] for item in selected if getattr(item, "originalname", "") == this]
    mine = [each for each in run if each.page == page and not why_not_here(each)]
    return {place for each in mine for place in re.findall(r"save_folder=(\S+)", each.text)}


@pytest.mark.parametrize("command", parameters())
def test_a_command_works_as_it_is_written(
    command: Command, folder: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [os.path.expanduser(word) for word in shlex.split(command.text, comments=True)]
    words += next((options for start, options in ADDED.items() if command.text.startswith(start)), [])
    if words[2] == "streaming_conversion":
        _make_way(words[5], s3.bucket("bucket"))
    if is_slow(command):
        done = subprocess.run(for_small_machines(words), env=_environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    else:
        with as_it_was():
            assert run_in_process(words, monkeypatch) == 0, capsys.readouterr().err


def _make_way(destination: str, bucket: Path) -> None:
    """What the world has for commands that come before a conversion."""
    shutil.rmtree(bucket / destination.removeprefix(BUCKET), ignore_errors=True)


def run_in_process(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    if words[0] == "maws-composer":
        return cli.main(words[1:])
    if words[2] == "streaming_conversion":
        return conversion.main(words[3:])
    monkeypatch.setattr(notice, "listen", lambda: None)  # for the life of the process
    return runpy.run_path(words[1], run_name="script")["main"](words[2:])


@contextmanager
def as_it_was() -> Iterator[None]:
    """A command sets handlers and log levels, and imports plugins, since the process is its own."""
    handler, level = signal.getsignal(signal.SIGTERM), logging.getLogger("maws_composer").level
    try:
        with only_for_now():
            yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        logging.getLogger("maws_composer").setLevel(level)


def for_small_machines(words: list[str]) -> list[str]:
    """The command of a training or an evaluation, on one process, with a model for tests."""
    programs = Path(sys.executable).parent
    if words[:2] == ["composer", "-n"]:
        words = [words[0], *words[3:]]
    if words[0] == "composer":
        words = [words[0], "-n", "1", "--master_port", str(free_port()), *words[1:]]
    if "evaluate.py" in words:
        words = [*words, *SMALL_EVALUATION]
    elif "train.py" in words:
        (stage,) = {stage for stage in SMALL_TRAINING if re.search(rf"\b{stage}[_.]", " ".join(words))} or {"mae"}
        words = [*words, *SMALL_TRAINING[stage]]
    return [str(programs / words[0]), *words[1:]]


def _environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.place)
def test_files_options_and_keys_of_a_command_exist(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = shlex.split(command.text, comments=True)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif words[:3] == ["python", "-m", "streaming_conversion"]:
        conversion._parser([]).parse_args(words[3:])
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]) is not None
    elif words[0] == "maws-composer":
        understand(cli.parser().parse_args(words[1:]))
    elif words[0] in ("composer", "python"):
        script = next(index for index, word in enumerate(words) if word.endswith(".py"))
        understand_script(words[script], words[script + 1 :])
    elif words[0] == "sbatch":
        assert (ROOT / words[1]).exists()
        understand_script("train.py", words[2:])
    else:
        assert why_not_here(command)
        assert all((ROOT / word).exists() for word in words if word.startswith(("clusters/", "requirements")))


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
    if config in {snippet.file for snippet in snippets("yaml")}:
        return  # a recipe that a page shows, and whose own test loads it
    load_with_ours(config, overrides)


def test_every_reason_not_to_run_a_command_is_needed() -> None:
    texts = [command.text for command in commands()]
    for start in [*NOT_HERE, *ADDED, DRAWING]:
        assert any(text.startswith(start) for text in texts), start
    assert len(texts) > 60
