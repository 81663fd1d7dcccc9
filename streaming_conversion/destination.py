"""Where a dataset goes: a folder, or object storage that streaming can write to.

Both hold the same: `part-…/` folders, `skipped.jsonl`, what describes labels (`classes.json`, `labels.txt`,
`labels.png`) and captions (`captions.json`), `dataset.json`, and last of all `index.json`; until then
`.conversion/` with the settings and one marker per finished part.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import urllib.parse
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from streaming.base.storage import CloudUploader
from streaming.base.storage.download import CloudDownloader

from maws_composer.data.columns import CAPTIONS_FILE
from streaming_conversion.parts import UPLOAD_ATTEMPTS
from streaming_conversion.problems import ConversionError

STATE = ".conversion"
INDEX = "index.json"
LABEL_FILES = ("classes.json", "labels.txt", "labels.png")


class Destination(Protocol):
    """Small files by name, and room for parts."""

    name: str

    def lock(self) -> AbstractContextManager[None]:
        """Held while converting: two conversions into one destination would spoil it."""

    def read(self, name: str) -> bytes | None:
        """The file's content, or None if there is no such file."""

    def write(self, name: str, content: bytes) -> None:
        """Write the file: all of it or nothing."""

    def part(self, name: str) -> tuple[Path, str | None]:
        """(folder on this machine, address in object storage) that a part is written to."""

    def settle_part(self, name: str) -> None:
        """Put a written part in its place."""

    def holds(self, names: dict[str, int]) -> bool:
        """Whether the files are there with these sizes."""

    def require_unused(self) -> None:
        """Raise ConversionError if something is there that no conversion put there."""

    def clear(self) -> None:
        """Take away what conversions put there."""

    def finish(self) -> None:
        """Take away what only an unfinished conversion needs."""


def open_destination(address: str, scratch: Path | None) -> Destination:
    """The destination at `address`: a path, or a URL such as s3://bucket/folder.

    Args:
        address: as the user gives it.
        scratch: folder for parts on their way to object storage; None for the system's temporary folder.
    """
    scheme = urllib.parse.urlparse(address).scheme
    if not scheme:
        return Folder(Path(address).expanduser())
    return ObjectStorage(address.rstrip("/"), scratch or Path(tempfile.gettempdir()))


@contextmanager
def locked(path: Path, name: str) -> Iterator[None]:
    """Hold an exclusive lock on the file at `path`. The system lets go of it when the process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        _lock(handle, name)
        yield


def _lock(handle: IO[str], name: str) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConversionError(f"another conversion is writing to {name}") from error


class Folder:
    """A folder of this machine."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path

    @contextmanager
    def lock(self) -> Iterator[None]:
        try:
            self._path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConversionError(f"{self.name} cannot be made: {error.strerror}") from error
        with locked(self._path / STATE / "lock", self.name):
            try:
                yield
            finally:
                if not (self._path / STATE / "settings.json").exists():
                    shutil.rmtree(self._path / STATE, ignore_errors=True)

    def read(self, name: str) -> bytes | None:
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        path = self._path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)

    def part(self, name: str) -> tuple[Path, str | None]:
        return self._path / STATE / name, None

    def settle_part(self, name: str) -> None:
        shutil.rmtree(self._path / name, ignore_errors=True)
        (self._path / STATE / name).rename(self._path / name)

    def holds(self, names: dict[str, int]) -> bool:
        paths = {self._path / name: size for name, size in names.items()}
        return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())

    def require_unused(self) -> None:
        strangers = sorted(path.name for path in self._path.iterdir() if path.name != STATE)
        if strangers:
            raise ConversionError(f"{self.name} is not empty ({', '.join(strangers[:3])}); choose a new folder")

    def clear(self) -> None:
        (self._path / INDEX).unlink(missing_ok=True)  # first: from here on it does not look whole
        for name in ("dataset.json", "skipped.jsonl", CAPTIONS_FILE, *LABEL_FILES):
            (self._path / name).unlink(missing_ok=True)
        for path in [*self._path.glob("part-*"), *(self._path / STATE).glob("part-*")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        (self._path / STATE / "settings.json").unlink(missing_ok=True)

    def finish(self) -> None:
        shutil.rmtree(self._path / STATE)


class ObjectStorage:
    """A place in object storage. Small files are read and written by streaming's own clients."""

    def __init__(self, address: str, scratch: Path) -> None:
        self.name = address
        # a name that the same command finds again, so that what a killed conversion left is wiped and not heaped up
        self._scratch = scratch / f"streaming_conversion-{hashlib.sha256(address.encode()).hexdigest()[:12]}"
        self._uploader: Any = None
        self._downloader: Any = None

    @contextmanager
    def lock(self) -> Iterator[None]:
        with locked(self._scratch.with_suffix(".lock"), self.name):
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch.mkdir(parents=True)
            try:
                self._connect()
                yield
            finally:
                shutil.rmtree(self._scratch, ignore_errors=True)

    def _connect(self) -> None:
        try:
            self._uploader = CloudUploader.get(
                (str(self._scratch / "files"), self.name), keep_local=True, retry=UPLOAD_ATTEMPTS
            )
            self._downloader = CloudDownloader.get(self.name)
        except Exception as error:
            raise ConversionError(f"{self.name} cannot be written to: {error}") from error

    def read(self, name: str) -> bytes | None:
        local = self._scratch / "read" / name
        try:
            self._downloader.download(f"{self.name}/{name}", str(local))
            return local.read_bytes()
        except Exception as error:
            if is_absence(error):
                return None
            raise ConversionError(f"{self.name}/{name} cannot be read: {error}") from error
        finally:
            local.unlink(missing_ok=True)

    def write(self, name: str, content: bytes) -> None:
        local = self._scratch / "files" / name
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_bytes(content)
        try:
            self._uploader.upload_file(name)
        except Exception as error:
            raise ConversionError(f"{self.name}/{name} cannot be written: {error}") from error
        finally:
            local.unlink()

    def part(self, name: str) -> tuple[Path, str | None]:
        return self._scratch / name, f"{self.name}/{name}"

    def settle_part(self, name: str) -> None:
        """It is there already: the marker, written next, makes it count."""

    def holds(self, names: dict[str, int]) -> bool:
        return True  # markers are written after their uploads have succeeded

    def require_unused(self) -> None:
        """Not every object storage can be listed; names that are not ours are left alone."""

    def clear(self) -> None:
        raise ConversionError(
            f"--overwrite cannot delete in object storage; delete {self.name} with your storage's own tool, "
            "or choose another destination"
        )

    def finish(self) -> None:
        """The markers stay: they are small, and streaming's clients cannot delete."""


def is_absence(error: BaseException) -> bool:
    """Whether a storage client's error says that there is no such object, and not that it could not be reached."""
    if isinstance(error, FileNotFoundError):
        return True
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return str(response.get("Error", {}).get("Code")) in {"404", "NoSuchKey"}
    return 404 in (getattr(error, "code", None), getattr(error, "status", None), getattr(error, "status_code", None))
