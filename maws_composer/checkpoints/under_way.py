"""The checkpoint that is under way while training goes on: one at most, and all ranks know the same of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import NoReturn

import torch
import torch.distributed as dist

from maws_composer.checkpoints.upload import UPLOADING, Uploader
from maws_composer.parallel.agree import on_every_rank
from maws_composer.resilience.progress import limited_wait

log = logging.getLogger(__name__)

_BETWEEN_LOOKS = 1.0  # seconds, while there is nothing to do but wait
_THREAD = "saving"


class UnderWay:
    """Writing in a thread, and the upload that may follow.

    While there is something under way, `look` has the ranks agree on how it goes: two bits over the CPU, after which
    all of them forget it, or raise, at the same step. While there is nothing, it costs nothing.

    Args:
        uploader: that what is written goes to, if any.
        group: of the main threads' CPUs.
    """

    def __init__(self, uploader: Uploader | None, group: dist.ProcessGroup) -> None:
        self._uploader = uploader
        self._group = group
        self._writing: Future[None] | None = None  # until the ranks have agreed that nothing is left to do

    def begin(self, write: Callable[[], None], in_background: bool) -> None:
        """Write, and begin the upload. To be called once nothing is under way. A collective, as `write` is one.

        Args:
            write: writes, then starts the upload.
            in_background: in a thread; otherwise failures are raised at once.
        """
        self._writing = Future()
        if in_background:
            # A daemon, unlike those of torch's async_save: a process has to be able to end without it.
            threading.Thread(target=_work, args=(self._writing, write), name=_THREAD, daemon=True).start()
        else:
            _work(self._writing, write)
            self.look()

    def look(self) -> None:
        """Raise on every rank if it failed on one. A collective.

        Raises:
            SaveError, StorageError: of the first rank that failed.
        """
        if self._writing is None:
            return
        progress = torch.tensor([self._error is not None, not self._has_ended], dtype=torch.int32)
        dist.all_reduce(progress, dist.ReduceOp.MAX, group=self._group)
        has_failed, is_going_on = progress.tolist()
        if has_failed:
            self._raise()
        if not is_going_on:
            self._writing = None

    def settle(self) -> None:
        """Wait until nothing is under way. A collective; raises as `look` does."""
        if self._writing is not None and not self._has_ended:
            log.info("waiting for the checkpoint that is being %s", "uploaded" if self._writing.done() else "saved")
        while self._writing is not None:
            wait([self._writing], _BETWEEN_LOOKS)
            if self._uploader is not None and self._writing.done():
                with limited_wait("waiting for a checkpoint's upload"):
                    self._uploader.join(_BETWEEN_LOOKS)
            self.look()

    def is_written(self, until: float) -> bool:
        """Wait for what is being written, not for its upload, and forget it. A collective; raises as `look` does.

        Args:
            until: time.monotonic() at which to wait no longer.

        Returns:
            Whether it is, on every rank.
        """
        if self._writing is None:
            return True
        writing, self._writing = self._writing, None
        wait([writing], max(until - time.monotonic(), 0))
        outcomes = on_every_rank(lambda: (writing.done(), writing.exception() if writing.done() else None), self._group)
        for _, error in outcomes:
            if error is not None:
                raise error
        return all(is_done for is_done, _ in outcomes)

    @property
    def _has_ended(self) -> bool:
        assert self._writing is not None
        return self._writing.done() and not (self._uploader and self._uploader.is_busy)

    @property
    def _error(self) -> BaseException | None:
        assert self._writing is not None
        failed = self._writing.exception() if self._writing.done() else None
        return failed or (self._uploader.error if self._uploader else None)

    def _raise(self) -> NoReturn:
        errors = on_every_rank(lambda: self._error, self._group)
        self._writing = None
        if self._uploader is not None:
            self._uploader.close()  # this rank's part is of no use without the others'
        raise next(error for error in errors if error is not None)


def leave_time_to_save(seconds: float) -> None:
    """Before this process ends because of an error: writing and uploading need all ranks.

    Not as late as in `close`: an interpreter that ends starts no threads, which libraries of object storage need.
    """
    until = time.monotonic() + seconds
    for name in (_THREAD, UPLOADING):  # the one begins the other
        for thread in threading.enumerate():
            if thread.name == name:
                thread.join(max(until - time.monotonic(), 0))


def _work(future: Future[None], write: Callable[[], None]) -> None:
    try:
        write()
        future.set_result(None)
    except BaseException as error:
        future.set_exception(error)
