"""Where a dataset is read from: a folder, or object storage that streaming can read from."""

from __future__ import annotations

import tempfile
from pathlib import Path

from streaming_conversion.problems import ConversionError

Place = Path | str  # a folder; s3://bucket/folder and the like

_ATTEMPTS = 5  # 1 + 2 + 4 + 8 s between them: survives an outage of a quarter of a minute
_PATIENCE = 600.0  # seconds for one file


def parse_place(text: str) -> Place:
    """A source on the command line."""
    return text.rstrip("/") if "://" in text else Path(text)


def read_file(place: Place, name: str) -> bytes:
    """A file of a dataset, whole; of one in object storage nothing stays on the disk.

    Raises:
        ConversionError: it cannot be read.
    """
    path = f"{place}/{name}"
    try:
        return Path(path).read_bytes() if isinstance(place, Path) else _download(path)
    except OSError as error:
        raise ConversionError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # each storage library has exceptions of its own
        raise ConversionError(f"{path} cannot be read: {error}") from error


def _download(address: str) -> bytes:
    from streaming.base.storage import CloudDownloader  # slow to import, and not needed for folders
    from streaming.base.util import retry

    @retry(num_attempts=_ATTEMPTS)
    def download() -> bytes | None:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy"
            try:
                CloudDownloader.direct_download(address, str(copy), _PATIENCE)
            except FileNotFoundError:  # it will not be there the next time
                return None
            return copy.read_bytes()

    content: bytes | None = download()
    if content is None:
        raise FileNotFoundError("there is no such file")
    return content
