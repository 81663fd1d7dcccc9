"""The folder of a run: where it lives, and where its files are written first.

    <save_folder>/
        run_id                  one line, made by the first start
        config.yaml             what the run resolved to
        metrics.jsonl           one object per step
        starts.jsonl            one per start: when, on what, with which versions
        checkpoints/ep0-ba100/  shards, .metadata, config.yaml, and complete.json, written last
        pictures/  report.html

The layout is the same on a disk and in object storage. Files for object storage are written to a local folder first.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from maws_composer.checkpoints.completeness import RunPath
from maws_composer.config.load import LoadedRun
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.config.run import Run
from maws_composer.config.show import to_yaml
from maws_composer.outages import StorageError, insist, is_mistake
from maws_composer.parallel.agree import on_rank_zero, once_per_node
from maws_composer.reporting.pictures import FOLDER as PICTURES
from maws_composer.reporting.pictures import worth_carrying
from maws_composer.resilience.storage import wait_for_storage

Result = TypeVar("Result")
log = logging.getLogger(__name__)


LOCK_PATIENCE = 60  # seconds
_held: list[FileLock] = []  # for the life of the process: a lock that is garbage is open


def open_path(url: str, key: str = "save_folder") -> RunPath:
    """A local path, or one in object storage (s3://, gs://, az://).

    S3-compatible servers are named by S3_ENDPOINT_URL, the variable that streaming reads too. Each call makes a client
    of its own, since clients may not be shared between threads.

    Args:
        url: of anything; what is wrong with it is told as a problem of `key`, the option or argument that names it.

    Raises:
        ConfigError: for a URL of another kind, or one whose credentials are missing.
    """
    if "://" in url and not url.startswith(("s3://", "gs://", "az://")):
        raise ConfigError([Problem(key, f"{url}: expected a local folder, s3://, gs:// or az://")])
    if "://" not in url:
        return Path(url)

    from cloudpathlib import AnyPath, S3Client
    from cloudpathlib.exceptions import CloudPathException

    try:
        if url.startswith("s3://"):
            return S3Client(endpoint_url=os.environ.get("S3_ENDPOINT_URL")).CloudPath(url)
        return AnyPath(url)
    except CloudPathException as error:
        raise ConfigError([Problem(key, f"{url} cannot be opened: {error}")]) from error


@dataclass(frozen=True)
class RunFolder:
    """Where a run lives.

    Attributes:
        url: what the user named.
        local: the folder on this machine that files are written to; where `url` is local, the same.
        patience: seconds that object storage may be away.
    """

    url: str
    local: Path
    patience: float = 0.0

    @property
    def is_remote(self) -> bool:
        return "://" in self.url

    @property
    def home(self) -> RunPath:
        return open_path(self.url)

    @property
    def checkpoints(self) -> Path:
        return self.local / "checkpoints"

    def insist(self, action: Callable[[], Result], what: str = "") -> Result:
        """Read or write where the run lives, and wait for storage that is away; `action` may be done twice.

        Raises:
            StorageError: it stayed away for longer than `patience`. A mistake is raised as it is, at once.
        """
        return wait_for_storage(action, f"{self.url}/{what}".rstrip("/"), self.patience)


def start_run(loaded: LoadedRun) -> RunFolder:
    """Make the run's folder, or find it. A collective.

    Raises:
        ConfigError: where it is not readable and writable, or not the same on every node.
        StorageError: object storage was away for too long.
    """
    run = loaded.run
    run_id = on_rank_zero(lambda: _begin(run.save_folder, run.storage_patience))
    folder = _open(run, run_id)
    once_per_node(lambda: _check_shared(folder, run_id))
    on_rank_zero(lambda: _lock(folder))
    on_rank_zero(lambda: folder.insist(lambda: fetch(folder, "metrics.jsonl"), "metrics.jsonl"))
    on_rank_zero(lambda: folder.insist(lambda: fetch_pictures(folder), PICTURES))
    return folder


def keep_config(folder: RunFolder, loaded: LoadedRun) -> None:
    """Write down what the run resolved to, without credentials."""
    (folder.local / "config.yaml").write_text(to_yaml(loaded))
    folder.insist(lambda: send(folder, "config.yaml"), "config.yaml")


def _begin(save_folder: str, patience: float) -> str:
    """The run's id, which tells it from a run that had the same folder before; proves that the folder is ours.

    Raises:
        ConfigError: where it is not readable and writable.
        StorageError: object storage was away for longer than `patience`.
    """
    home = open_path(save_folder)
    try:
        return insist(lambda: _mark(home), save_folder, patience, unless=is_mistake)
    except StorageError:
        raise
    except Exception as error:  # each storage library has exceptions of its own
        raise ConfigError([Problem("save_folder", f"{save_folder} is not readable and writable: {error}")]) from error


def _mark(home: RunPath) -> str:
    if isinstance(home, Path):
        home.mkdir(parents=True, exist_ok=True)
    marker = home / "run_id"
    run_id = marker.read_text().strip() if marker.exists() else secrets.token_hex(8)
    marker.write_text(run_id + "\n")
    return run_id


def run_id(save_folder: str) -> str:
    """The id that the first start gave to the run."""
    return (open_path(save_folder) / "run_id").read_text().strip()


def _open(run: Run, run_id: str) -> RunFolder:
    remote = "://" in run.save_folder
    local = Path(run.speed.scratch_folder) / "runs" / run_id if remote else Path(run.save_folder)
    return RunFolder(run.save_folder, local.absolute(), run.storage_patience)


def _check_shared(folder: RunFolder, run_id: str) -> None:
    """On each node: a local folder has to be the one that rank 0 began."""
    marker = folder.local / "run_id"
    if not folder.is_remote and (not marker.exists() or marker.read_text().strip() != run_id):
        message = f"{folder.url} is not the same folder on every node; use a shared file system, s3://, gs:// or az://"
        raise ConfigError([Problem("save_folder", message)])
    folder.checkpoints.mkdir(parents=True, exist_ok=True)


def _lock(folder: RunFolder) -> None:
    """Keep other launches out of the folder as long as this process lives.

    What is left of a killed launch needs some seconds to end. For a run in object storage this sees launches on the
    same machine only.
    """
    lock = FileLock(folder.local / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.warning("%s is being trained in by another process; waiting for its end", folder.url)
        try:
            lock.acquire(timeout=LOCK_PATIENCE)
        except Timeout:
            message = f"another process is training in {folder.url}; end it, or choose another folder"
            raise ConfigError([Problem("save_folder", message)]) from None
    _held.append(lock)


def fetch(folder: RunFolder, name: str) -> None:
    """Bring a file of a remote run that only grows to this node, unless this node's reaches further."""
    remote, local = folder.home / name, folder.local / name
    reached = local.stat().st_size if local.exists() else -1
    if not isinstance(remote, Path) and remote.exists() and remote.stat().st_size > reached:
        remote.download_to(local)


def fetch_pictures(folder: RunFolder) -> None:
    """Bring what earlier starts of a remote run have drawn to this node, as far as a report shows it."""
    remote, local = folder.home / PICTURES, folder.local / PICTURES
    if isinstance(remote, Path) or not remote.exists():
        return
    local.mkdir(parents=True, exist_ok=True)
    for name in worth_carrying(path.name for path in remote.iterdir()):
        if not (local / name).exists():
            (remote / name).download_to(local / f"{name}.partial")
            (local / f"{name}.partial").replace(local / name)


def unsent_pictures(local: Path, home: RunPath) -> list[str]:
    """Pictures of this node's folder of a run that are not yet where it lives, or not as they are here."""
    here = {path.name: path.stat().st_size for path in (local / PICTURES).glob("*") if path.suffix != ".partial"}
    if isinstance(home, Path) or not here:
        return []
    remote = home / PICTURES
    there = {path.name: path.stat().st_size for path in remote.iterdir()} if remote.exists() else {}
    return sorted(f"{PICTURES}/{name}" for name, size in here.items() if there.get(name) != size)


def send(folder: RunFolder, *names: str) -> None:
    """Copy files of this node to where a remote run lives."""
    home = folder.home
    for name in names:
        remote = home / name
        if not isinstance(remote, Path):
            remote.upload_from(folder.local / name, force_overwrite_to_cloud=True)
