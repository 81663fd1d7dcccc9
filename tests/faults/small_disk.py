"""A disk of its own for a run, which can be made full or read-only: tmpfs in a namespace, without being root."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path


@cache
def namespaces() -> bool:
    """Whether this machine lets its users make them."""
    return subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0


class SmallDisk:
    """Mounted at `folder`, for those that `inside` runs; everybody else sees it as `seen`.

    Args:
        folder: empty.
        size: in bytes.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        mount = f"mount -t tmpfs -o size={size} tmpfs '{folder}' && echo && exec sleep 3600"
        self._holder = subprocess.Popen(["unshare", "-rm", "sh", "-c", mount], stdout=subprocess.PIPE)
        assert self._holder.stdout is not None and self._holder.stdout.readline(), "the disk was not mounted"

    @property
    def inside(self) -> tuple[str, ...]:
        """A command that runs another one where the disk is."""
        return ("nsenter", "--preserve-credentials", "-U", "-m", f"--target={self._holder.pid}", f"--wd={Path.cwd()}")

    @property
    def seen(self) -> Path:
        return Path(f"/proc/{self._holder.pid}/root{self.folder}")

    def remount(self, options: str) -> bool:
        """For example `ro`, or `size=8m`. Returns whether it could be: not to `ro` while a file is being written."""
        command = [*self.inside, "mount", "-o", f"remount,{options}", str(self.folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def __enter__(self) -> SmallDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.kill()
        self._holder.wait()
