"""Parts of files, local or in object storage: of a large checkpoint only what is needed travels."""

from __future__ import annotations

import io
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from maws_composer.checkpoints.completeness import RunPath
from maws_composer.outages import insist

if TYPE_CHECKING:
    from cloudpathlib import CloudPath

_PATIENCE = 60.0  # seconds
_BUFFER = 1 << 20


def read_range(path: RunPath, offset: int, length: int) -> bytes:
    """`length` bytes from `offset` on: in object storage by one request, tried again for a minute if it fails.

    Raises:
        EOFError: the file is shorter.
        StorageError: object storage does not answer.
    """
    if not isinstance(path, Path):
        data = insist(lambda: _request(path, offset, length), str(path), _PATIENCE) if length else b""
    else:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(length)
    if len(data) != length:
        raise EOFError(f"{path} was cut off: it ends before byte {offset + length:,}")
    return data


def open_ranged(path: RunPath) -> BinaryIO:
    """The file for reading, seekable; in object storage each stretch that is read is a request."""
    if isinstance(path, Path):
        return path.open("rb")
    return cast(BinaryIO, io.BufferedReader(_RangedFile(path), _BUFFER))


class _RangedFile(io.RawIOBase):
    def __init__(self, path: CloudPath) -> None:
        self._path = path
        self._size = path.stat().st_size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        length = max(0, min(len(buffer), self._size - self._position))
        buffer[:length] = read_range(self._path, self._position, length)
        self._position += length
        return length


@cache
def s3_client(endpoint: str | None) -> Any:
    """For all threads, which boto3 allows. Some servers send the whole file's checksum with a part of it."""
    import boto3  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]

    config = Config(response_checksum_validation="when_required")
    return boto3.Session().client("s3", endpoint_url=endpoint, config=config)


def _request(path: CloudPath, offset: int, length: int) -> bytes:
    """The one thing that cloudpathlib does not offer, by the clients that it brings.

    What gs:// and az:// are asked for is tested, but not run by us against the providers themselves.
    """
    from cloudpathlib import AzureBlobPath, GSPath, S3Path

    if isinstance(path, S3Path):
        client, part = s3_client(os.environ.get("S3_ENDPOINT_URL")), f"bytes={offset}-{offset + length - 1}"
        return client.get_object(Bucket=path.bucket, Key=path.key, Range=part)["Body"].read()
    if isinstance(path, GSPath):
        blob = path.client.client.bucket(path.bucket).blob(path.blob)
        return blob.download_as_bytes(start=offset, end=offset + length - 1)
    if isinstance(path, AzureBlobPath):
        blob = path.client.service_client.get_blob_client(container=path.container, blob=path.blob)
        return blob.download_blob(offset=offset, length=length).readall()
    raise TypeError(f"{path}: expected s3://, gs:// or az://")
