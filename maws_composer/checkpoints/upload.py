"""Copying finished checkpoints to object storage while training goes on.

Composer's own upload gives up on the first error, so that storage that is away for some seconds ends the run. Here
every file is tried again until `patience` seconds have passed without success; only then does the run stop, and it
can be resumed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from maws_composer.checkpoints.completeness import MARKER
from maws_composer.checkpoints.run_folder import open_path
from maws_composer.outages import StorageError, insist

if TYPE_CHECKING:
    from cloudpathlib import CloudPath

Result = TypeVar("Result")

UPLOADING = "upload"  # the thread's name


class Uploader:
    """Uploads one checkpoint at a time from a thread of its own.

    Args:
        home: the run's folder in object storage, as a URL.
        patience: seconds of failure after which the run stops.

    Attributes:
        seconds: that the last upload took; 0 before the first.
        error: that ended one.
    """

    seconds = 0.0
    error: BaseException | None = None

    def __init__(self, home: str, patience: float) -> None:
        self._home = home
        self._patience = patience
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def start(self, work: Callable[[CloudPath], None]) -> None:
        """Run `work(home)` in the thread. One at a time: call `wait` before the next."""
        # A daemon: the end of the process does not wait for it, or a rank would outlive the others' files.
        self._thread = threading.Thread(target=self._run, args=(work,), name=UPLOADING, daemon=True)
        self._thread.start()

    @property
    def is_busy(self) -> bool:
        """Whether an upload is under way."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self, until: float | None = None) -> bool:
        """Wait for the upload under way, and raise what it raised.

        Args:
            until: time.monotonic() at which to wait no longer.

        Returns:
            Whether it has ended.
        """
        self.join(None if until is None else max(until - time.monotonic(), 0))
        if self.error is not None:
            raise self.error
        return not self.is_busy

    def join(self, seconds: float | None) -> None:
        """Wait for the upload under way, whatever comes of it."""
        if self._thread is not None:
            self._thread.join(seconds)

    def close(self) -> None:
        """Give up what is under way: nothing incomplete is declared complete by that."""
        self._stop.set()

    def put(self, home: CloudPath, source: Path, relative: str) -> None:
        """Upload one file to `home/relative`, replacing what is there, with retries."""
        self.insist(lambda: (home / relative).upload_from(source, force_overwrite_to_cloud=True), relative)

    def put_marker(self, home: CloudPath, folder: Path, relative: str, files: dict[str, int]) -> None:
        """Upload a checkpoint's marker once every one of its files, whichever rank sends it, has arrived whole.

        Raises:
            StorageError: none arrived for `patience` seconds: another rank has failed.
        """
        remote, missing, since = home / relative, set(files), time.monotonic()
        while not self._stop.is_set():
            arrived = self.insist(lambda: {path.name: path.stat().st_size for path in remote.iterdir()}, relative)
            still = {name for name, size in files.items() if arrived.get(name) != size}
            if not still:
                self.put(home, folder / MARKER, f"{relative}/{MARKER}")
                return
            if still != missing:
                missing, since = still, time.monotonic()
            if time.monotonic() - since > self._patience:
                raise StorageError(
                    f"{self._home}/{relative}: {', '.join(sorted(still))} did not arrive from other ranks"
                )
            self._stop.wait(0.5)

    def insist(self, action: Callable[[], Result], what: str) -> Result:
        """See `insist`; ends early when the uploads are given up."""
        return insist(action, f"{self._home}/{what}", self._patience, self._stop)

    def _run(self, work: Callable[[CloudPath], None]) -> None:
        began = time.monotonic()
        try:
            home = open_path(self._home)  # a client of this thread's own
            assert not isinstance(home, Path)
            work(home)
            self.seconds = time.monotonic() - began
        except BaseException as error:
            self.error = error
