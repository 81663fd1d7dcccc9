"""The report while a run is trained, and at its end."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from maws_composer.checkpoints.run_folder import RunFolder, send, unsent_pictures
from maws_composer.checkpoints.saving import ShardedCheckpoints
from maws_composer.outages import insist
from maws_composer.reporting.metrics_file import FILE
from maws_composer.reporting.report import REPORT, write_report
from maws_composer.reporting.run_data import STARTS
from maws_composer.resilience.progress import limited_wait

log = logging.getLogger(__name__)

_PAUSE = 60.0  # seconds: nobody looks at a page more often
_LOWEST_PRIORITY = 19


class ReportAtCheckpoints(Callback):
    """Has the report written at each checkpoint, by a process of its own on rank 0: training does not wait for it.

    To object storage it goes with the checkpoints that are uploaded.

    Args:
        folder: of the run.
        checkpoints: that are saved before this is asked.
        pause: seconds between two reports, and before the first.
    """

    def __init__(self, folder: RunFolder, checkpoints: ShardedCheckpoints, pause: float = _PAUSE) -> None:
        self._folder = folder
        self._checkpoints = checkpoints
        self._pause = pause
        self._began = time.monotonic()
        self._writer: subprocess.Popen[bytes] | None = None

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        if dist.get_global_rank() == 0 and self._checkpoints.last_checkpoint_batch == state.timestamp.batch:
            self._write()

    def epoch_checkpoint(self, state: State, logger: Logger) -> None:
        self.batch_checkpoint(state, logger)

    def close(self, state: State, logger: Logger) -> None:
        if self._writer is not None:
            self._writer.kill()  # the one at the end says more
            self._writer.wait()

    def _write(self) -> None:
        if time.monotonic() - self._began < self._pause or (self._writer is not None and self._writer.poll() is None):
            return
        if self._writer is not None and self._writer.returncode != 0:
            log.warning("the last report was not written (exit code %d); see above", self._writer.returncode)
        self._began = time.monotonic()
        command = [sys.executable, "-m", "maws_composer.cli", "report", str(self._folder.local)]
        self._writer = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        os.setpriority(os.PRIO_PROCESS, self._writer.pid, _LOWEST_PRIORITY)


def publish_report(folder: RunFolder, patience: float) -> None:
    """Write the report, and copy it and what it was made of to where the run lives.

    Args:
        folder: of the run.
        patience: seconds that object storage may be away.
    """
    try:
        write_report(folder.local)
    except Exception as error:  # of a file that was cut off, perhaps; the run itself is none the worse
        log.warning("%s was not written: %s: %s", REPORT, type(error).__name__, error)
    beside = [name for name in (REPORT, FILE, STARTS) if (folder.local / name).exists()]
    with limited_wait("sending the report"):
        insist(lambda: send(folder, *beside, *unsent_pictures(folder.local, folder.home)), REPORT, patience)
