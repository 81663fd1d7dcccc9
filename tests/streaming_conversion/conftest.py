"""Folders of images, made on the spot, and conversions as users start them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.processes import ROOT

ENDINGS = ("jpg", "png", "webp")


def save_images(folder: Path, count: int, size: int = 24) -> list[str]:
    """`count` pictures of noise in sub-folders, in three formats; their names in the order of conversion."""
    rng = np.random.default_rng(0)
    names = [f"{'ab'[number % 2]}/{number:04d}.{ENDINGS[number % 3]}" for number in range(count)]
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8)).save(path)
    return sorted(names)


def write_metadata(folder: Path, lines: list[dict[str, Any]]) -> Path:
    path = folder / "metadata.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def content(folder: Path) -> dict[str, str]:
    """Name -> hash of every file of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """60 pictures."""
    save_images(tmp_path / "photos", 60)
    return tmp_path / "photos"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "streaming_conversion", *map(str, arguments)]


Convert = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def convert(tmp_path: Path) -> Convert:
    """Run `python -m streaming_conversion` to its end; paths are relative to `tmp_path`."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment,
            capture_output=True,
            text=True,
            timeout=240,
        )

    return run
