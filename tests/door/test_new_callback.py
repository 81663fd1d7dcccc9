"""`maws-composer new callback`: what it writes works as written, and nothing is overwritten."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from maws_composer.cli import main
from maws_composer.config.plugins import load_with_ours
from tests.processes import ROOT


def test_the_callback_and_its_test_pass_as_written(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["new", "callback", "mean_loss", "--out", str(tmp_path / "mine")]) == 0
    files = [tmp_path / "mine" / name for name in ("mean_loss.py", "test_mean_loss.py")]
    said = capsys.readouterr().out
    assert said.splitlines()[:2] == [str(file) for file in files]
    (tested,) = re.findall(r"python -m (pytest .*)", said)
    command = [sys.executable, "-m", *tested.split(), "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout
    command = [sys.executable, "-m", "ruff", "check", "--config", ROOT / "pyproject.toml", tmp_path / "mine"]
    assert subprocess.run(command).returncode == 0


def test_it_says_what_a_run_needs_to_use_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["new", "callback", "mean_speed", "--out", str(tmp_path / "mine")]) == 0
    said = capsys.readouterr().out
    lines = yaml.safe_load("\n".join(re.findall(r"^    (code_paths: .*|callbacks: .*)$", said, re.MULTILINE)))
    (command,) = re.findall(r"composer train.py CONFIG (.*)", said)
    (tmp_path / "run.yaml").write_text(
        yaml.safe_dump({"base": str(ROOT / "yamls/mae_vitb.yaml"), "data": {"train": {"local": "x"}}, **lines})
    )
    by_file = load_with_ours(tmp_path / "run.yaml").run.callbacks["mean_speed"]
    overrides = ["data.train.local=x", *shlex.split(command)]
    assert by_file == load_with_ours(ROOT / "yamls/mae_vitb.yaml", overrides).run.callbacks["mean_speed"]
    assert by_file == {"every": 10}
    (asked,) = re.findall(r"`maws-composer (registry [^`]*)`", said)
    assert main(asked.split()) == 0 and "how many steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("MeanLoss", "'MeanLoss' is no name in snake_case, such as input_wait"),
        ("mean-loss", "'mean-loss' is no name in snake_case"),
        ("class", "'class' is no name in snake_case"),
        ("reconstructions", "'reconstructions' is taken by "),
        ("torch", "'torch' is a package, which a test beside torch.py could not import"),
    ],
)
def test_a_name_that_cannot_be_given(name: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["new", "callback", name, "--out", str(tmp_path / "mine")]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "test_mean_loss.py").write_text("mine")
    assert main(["new", "callback", "mean_loss", "--out", str(tmp_path)]) == 2
    assert f"{tmp_path}/test_mean_loss.py exists already; nothing was written" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["test_mean_loss.py"]
