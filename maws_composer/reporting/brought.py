"""Runs to look at, wherever they live: of those in object storage, what a page shows is brought here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory

from maws_composer.config.problems import ConfigError, Problem
from maws_composer.outages import refused
from maws_composer.reporting.metrics_file import FILE
from maws_composer.reporting.pictures import FOLDER, worth_carrying
from maws_composer.reporting.run_data import STARTS, RunData, read_run

_SHOWN = (FILE, STARTS, "config.yaml", "status.json", "figures*.json")


@contextmanager
def runs_at(addresses: Sequence[str | Path]) -> Iterator[list[RunData]]:
    """Read runs, in their order; copies are kept as long as the context lasts.

    Args:
        addresses: of runs, each a local folder or a URL (s3://, gs://, az://).

    Raises:
        ConfigError: a URL is not readable, or not that of a run.
        ValueError: see `read_run`.
    """
    with TemporaryDirectory(prefix="report-") as scratch:
        yield [_read(str(address), Path(scratch) / str(number)) for number, address in enumerate(addresses)]


def _read(address: str, scratch: Path) -> RunData:
    if "://" not in address:
        return read_run(Path(address))
    try:
        _copy(address, scratch)
    except ConfigError:
        raise
    except Exception as error:  # each storage library has exceptions of its own
        raise refused(error, Problem(address, f"is not readable: {error}")) from error
    return read_run(scratch, address)


def _copy(address: str, scratch: Path) -> None:
    from maws_composer.checkpoints.run_folder import open_path  # imports torch, which a local page does without

    home = open_path(address, "RUN")
    assert not isinstance(home, Path)
    names = [path.name for path in home.iterdir()] if home.exists() else []
    if FILE not in names:
        raise ConfigError([Problem(address, f"has no {FILE}; name the folder of a run")])
    pictures = [path.name for path in (home / FOLDER).iterdir()] if FOLDER in names else []
    files = [name for name in names if any(fnmatch(name, pattern) for pattern in _SHOWN)]
    (scratch / FOLDER).mkdir(parents=True)
    for name in (*files, *(f"{FOLDER}/{name}" for name in worth_carrying(pictures))):
        (home / name).download_to(scratch / name)
