"""A dataset of any size in object storage: all shards are the same few megabytes, each under a name of its own."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image
from streaming import MDSWriter

SAMPLES_PER_SHARD = 10_000
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


def make_shard() -> tuple[bytes, dict]:
    """One shard of SAMPLES_PER_SHARD tiny pictures, and its entry in an index."""
    picture = io.BytesIO()
    Image.new("RGB", (16, 16), "teal").save(picture, "JPEG")
    with tempfile.TemporaryDirectory() as folder:
        columns = {"image": "bytes", "id": "str"}
        with MDSWriter(out=f"{folder}/shards", columns=columns, size_limit=1 << 30, hashes=["sha1"]) as writer:
            for number in range(SAMPLES_PER_SHARD):
                writer.write({"image": picture.getvalue(), "id": str(number)})
        (entry,) = json.loads(Path(folder, "shards", "index.json").read_text())["shards"]
        data = Path(folder, "shards", entry["raw_data"]["basename"]).read_bytes()
    assert hashlib.sha1(data).hexdigest() == entry["raw_data"]["hashes"]["sha1"]
    return data, entry


def write_index(file: Path, samples: int, entry: dict) -> None:
    """An `index.json` as MDSWriter writes it."""
    name = entry["raw_data"]["basename"]
    before, after = json.dumps(entry, sort_keys=True).split(name)
    with file.open("w") as out:
        out.write('{"shards": [')
        for shard in range(samples // SAMPLES_PER_SHARD):
            out.write(f"{', ' if shard else ''}{before}shard.{shard:06}.mds{after}")
        out.write('], "version": 2}')


class _Bucket(BaseHTTPRequestHandler):
    """As much of S3 as a download needs."""

    protocol_version = "HTTP/1.1"
    index: bytes
    shard: bytes

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        name = self.path.partition("?")[0].rpartition("/")[2]
        content = memoryview({"index.json": self.index}.get(name, self.shard if name.endswith(".mds") else b""))
        if not content:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        part, size = content, len(content)
        if wanted := _RANGE.match(self.headers.get("Range", "")):
            begin, end = int(wanted[1]), int(wanted[2] or size - 1)
            part = content[begin : end + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{end}/{size}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", '"0"')
        self.send_header("Last-Modified", "Wed, 01 Jan 2025 00:00:00 GMT")
        self.end_headers()
        if with_body:
            self.wfile.write(part)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def bucket(samples: int) -> Iterator[tuple[str, int]]:
    """Serves such a dataset on loopback, to processes that are started meanwhile; its address and its index's bytes."""
    shard, entry = make_shard()
    with tempfile.TemporaryDirectory() as folder:
        write_index(Path(folder, "index.json"), samples, entry)
        index = Path(folder, "index.json").read_bytes()
    handler = type("Bucket", (_Bucket,), {"index": index, "shard": shard})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= {
        "S3_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    try:
        yield "s3://images/train", len(index)
    finally:
        server.shutdown()
        server.server_close()
