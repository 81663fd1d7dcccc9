"""What is asked for at once is answered at once: by what is imported, since seconds depend on the machine."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.processes import ROOT

SLOW = {"torch", "composer", "streaming", "transformers", "timm", "omegaconf", "cloudpathlib", "matplotlib"}


def imported(*arguments: str) -> tuple[str, set[str]]:
    """What a command said, and the top-level packages that it imported."""
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout, set(re.findall(r"^import time:.*\| +(\w+)$", done.stderr, re.MULTILINE))


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_a_script_says_its_manual_before_the_slow_imports(script: str) -> None:
    for asked in ("--help", "-h"):
        said, packages = imported(script, asked)
        assert f"{script} yamls/" in said
        assert not SLOW & packages


def test_the_commands_say_their_manual_before_the_slow_imports() -> None:
    said, packages = imported("-m", "maws_composer.cli", "--help")
    assert "checkpoints" in said and not SLOW & packages


def test_without_a_configuration_the_manual_is_the_error() -> None:
    done = subprocess.run([sys.executable, "train.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "composer train.py yamls/" in done.stderr and not done.stdout


@pytest.mark.slow
def test_printing_a_configuration_needs_no_clients_of_object_storage() -> None:
    said, packages = imported("train.py", "yamls/mae_vitb.yaml", "data.train.remote=s3://b/images", "--print")
    assert "global_train_batch_size: 4096" in said and "composer" in packages
    assert not {"cloudpathlib", "boto3", "azure"} & packages
