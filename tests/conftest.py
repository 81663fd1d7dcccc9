"""What tests of whole runs share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: workers of pytest-xdist share two cores

from tests.runs import Runs, write_images
from tests.s3_server import S3Server, rclone


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Variables as they were: Composer, in the process of a test, sets those of a world of one rank."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """512 generated pictures as MDS."""
    return write_images(tmp_path_factory.mktemp("data") / "images")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server that runs; whoever stops it starts it again, and whoever needs a bucket has one of its own."""
    if rclone() is None:
        pytest.skip("rclone, of the extra `dev`, is not installed")
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def runs(tmp_path: Path, images: Path) -> Runs:
    return Runs(tmp_path, images)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--renew-golden", action="store_true", help="write tests/golden/ anew")
    parser.addoption("--fault-table", metavar="FILE", help="write the rows of tests/faults/ that were run as a table")
