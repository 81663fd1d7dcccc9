"""A third-party package that pip builds and installs into a virtual environment, and that is found there."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.processes import ROOT

PROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "theirs"
version = "1.0"
"""
ENTRY_POINTS = """\
[maws_composer.schedules]
their_constant = theirs:Constant
nowhere = theirs:Nothing

[maws_composer.readers]
their_exit = theirs_exit:read
"""
# A build backend as PEP 517 has it: setuptools may be too old to write wheels alone, and nothing is downloaded.
BACKEND = """\
import zipfile

INFO = "theirs-1.0.dist-info"


def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "theirs-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as wheel:
        for module in ("theirs.py", "theirs_exit.py"):
            wheel.write(module)
        wheel.write("entry_points.txt", f"{INFO}/entry_points.txt")
        wheel.writestr(f"{INFO}/METADATA", "Metadata-Version: 2.1\\nName: theirs\\nVersion: 1.0\\n")
        wheel.writestr(f"{INFO}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{INFO}/RECORD", "".join(f"{each.filename},,\\n" for each in wheel.infolist()))
    return name
"""
MODULE = '''\
class Constant:
    """The peak all along.

    Args:
        share: of the peak.
    """

    def __init__(self, share: float = 1.0) -> None:
        self.share = share

    def __call__(self, sample: int, total: int) -> float:
        return self.share
'''
USE = """
from maws_composer.config.load import load_run
from maws_composer.config.plugins import OURS
from maws_composer.optim.schedule import build_schedule
import torch
run = load_run("run.yaml", code_paths=OURS).run
optimizer = torch.optim.SGD([torch.zeros(1)], lr=8.0)
build_schedule(optimizer, run)
print(optimizer.param_groups[0]["lr"])
"""
RUN = """\
stage: mae
model: {size: vit_micro, image_size: 24}
data: {train: {remote: s3://bucket/images}}
global_train_batch_size: 16
max_duration: 160sp
schedule: {name: their_constant, share: 0.25}
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment that has the package, and what this one has."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "theirs.py").write_text(MODULE)
    (folder / "theirs_exit.py").write_text("import sys\nsys.exit('not today')\n")
    (folder / "entry_points.txt").write_text(ENTRY_POINTS)
    (folder / "backend.py").write_text(BACKEND)
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    parent = environment / "lib" / version / "site-packages" / "parent.pth"
    parent.write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
    interpreter = environment / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", interpreter, "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*command, "--no-build-isolation", folder], check=True)
    return interpreter


def run(python: Path, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([python, *arguments], capture_output=True, text=True, cwd=cwd, env=environment, timeout=240)


def test_it_is_listed_and_what_is_broken_breaks_nothing_else(python: Path) -> None:
    said = run(python, "-m", "maws_composer.cli", "registry", "schedule")
    assert said.returncode == 0, said.stderr
    assert "share: float  = 1.0" in said.stdout and "The peak all along." in said.stdout
    assert "the package theirs (theirs:Nothing) cannot be imported:" in said.stdout
    assert "AttributeError: module 'theirs' has no attribute 'Nothing'" in said.stdout
    exits = run(python, "-m", "maws_composer.cli", "registry", "reader", "their_exit")
    assert exits.returncode == 2
    assert "the package theirs (theirs_exit:read) cannot be imported:" in exits.stderr
    assert "SystemExit: not today" in exits.stderr


def test_it_is_used(python: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(RUN)
    used = run(python, "-c", USE, cwd=tmp_path)
    assert used.stdout.splitlines()[-1:] == ["2.0"], used.stderr
