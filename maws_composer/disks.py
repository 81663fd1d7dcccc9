"""Folders of this machine that will be written to."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from maws_composer.config.problems import Problem


def check_writable(key: str, folder: Path) -> list[Problem]:
    """Whether a folder, which `key` names, can be made and written to."""
    nearest = nearest_existing(folder)
    if not nearest.is_dir():
        return [Problem(key, f"{nearest} is a file, where a folder is needed; move it, or name another {key}")]
    try:
        with tempfile.TemporaryDirectory(dir=nearest) as probe:
            (Path(probe) / "file").write_bytes(b"x")
    except OSError as error:
        message = f"{nearest} is not writable: {error.strerror or error}; make it so, or name another {key}"
        return [Problem(key, message)]
    return []


def nearest_existing(folder: Path) -> Path:
    """The folder, or what is nearest above it; perhaps a file, or a link that leads nowhere."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
