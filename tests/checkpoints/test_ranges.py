"""A part of a file in each kind of object storage: the providers' own clients, against a server on loopback.

S3 is read from a real server in tests/weights/test_sources.py. For the other two there is none to install: what answers
here knows of no more than ranges of one file, so that it proves which bytes the clients ask for, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from maws_composer.checkpoints.ranges import read_range
from maws_composer.checkpoints.run_folder import open_path

CONTENT = bytes(range(200))


class OneFile(BaseHTTPRequestHandler):
    """Answers every GET with the range of CONTENT that it names, whose end belongs to it (RFC 9110, section 14)."""

    def do_GET(self) -> None:
        wanted = self.headers["x-ms-range"] or self.headers["Range"]
        first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", wanted).groups())
        part = CONTENT[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("ETag", '"1"')
        self.send_header("x-ms-blob-type", "BlockBlob")
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", 0), OneFile) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        monkeypatch.setenv(
            "AZURE_STORAGE_CONNECTION_STRING",
            f"DefaultEndpointsProtocol=http;AccountName=a;AccountKey=a2V5;BlobEndpoint={address}/a;",
        )
        yield
        server.shutdown()


@pytest.mark.parametrize("url", ["gs://bucket/runs/file", "az://container/runs/file"])
def test_a_part_of_a_file_is_those_bytes_and_no_more(url: str, server: None) -> None:
    path = open_path(url)
    assert read_range(path, 0, 1) == CONTENT[:1]
    assert read_range(path, 17, 40) == CONTENT[17:57]
    assert read_range(path, 150, 50) == CONTENT[150:]
    with pytest.raises(EOFError, match=r"it ends before byte 201$"):
        read_range(path, 190, 11)
