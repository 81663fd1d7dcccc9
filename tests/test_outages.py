"""What will not get better is told at once; what may is waited for."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from maws_composer.checkpoints.run_folder import RunFolder, open_path
from maws_composer.outages import StorageError, insist, is_mistake, is_no_outage
from maws_composer.weights.files import SourceError
from tests.s3_server import S3Server, rclone

needs_rclone = pytest.mark.skipif(rclone() is None, reason="rclone, of the extra `dev`, is not installed")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with S3Server(tmp_path / "s3") as server:
        server.bucket("bucket")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        yield server


def error_of_writing(url: str) -> Exception:
    with pytest.raises(Exception) as caught:
        (open_path(url) / "file").write_text("x")
    return caught.value


@needs_rclone
def test_mistakes_and_outages_of_s3_are_told_apart(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    (open_path("s3://bucket") / "file").write_text("x")
    with pytest.raises(Exception) as missing:
        (open_path("s3://bucket") / "other").read_text()
    assert is_mistake(missing.value)
    assert is_mistake(error_of_writing("s3://no-such-bucket"))
    with monkeypatch.context() as patched:
        patched.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        assert is_mistake(error_of_writing("s3://bucket"))
    with monkeypatch.context() as patched:
        patched.setenv("S3_ENDPOINT_URL", "127.0.0.1")
        assert is_mistake(error_of_writing("s3://bucket"))
    with monkeypatch.context() as patched:
        patched.delenv("AWS_SECRET_ACCESS_KEY")
        assert is_mistake(error_of_writing("s3://bucket"))
    server.stop()
    assert not is_mistake(error_of_writing("s3://bucket"))


def test_a_mistake_is_raised_as_it_is_and_an_outage_after_the_patience() -> None:
    def deny() -> None:
        raise PermissionError("denied")

    def refuse() -> None:
        raise ConnectionRefusedError("away")

    with pytest.raises(PermissionError, match="denied"):
        RunFolder("s3://bucket/run", Path("nowhere"), patience=60).insist(deny)
    with pytest.raises(StorageError, match=r"s3://bucket/run/x: object storage failed for .* Last: away"):
        RunFolder("s3://bucket/run", Path("nowhere"), patience=0.5).insist(refuse, "x")


def test_what_nobody_can_tell_is_waited_for_only_where_storage_alone_may_fail() -> None:
    unknown = RuntimeError("size mismatch for a tensor")
    assert not is_mistake(unknown) and is_no_outage(unknown)
    away = SourceError("s3://bucket/run is not readable")
    away.__cause__ = ConnectionRefusedError()
    assert not is_mistake(away) and not is_no_outage(away)


def test_what_comes_back_is_gone_on_with() -> None:
    back = time.monotonic() + 1.5

    def read() -> str:
        if time.monotonic() < back:
            raise TimeoutError
        return "read"

    assert insist(read, "file", patience=60, unless=is_mistake) == "read"
