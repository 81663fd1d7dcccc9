"""Saving: local first, the marker last, then a copy in object storage; training waits for a copy in memory only."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch.distributed as dist
from composer.callbacks import CheckpointSaver
from composer.core import State
from composer.loggers import Logger
from composer.utils import dist as composer_dist

from maws_composer.checkpoints.completeness import RunPath, in_bytes
from maws_composer.checkpoints.retention import abort_cut_off_uploads, drop_older_copies, retire
from maws_composer.checkpoints.run_folder import RunFolder, unsent_pictures
from maws_composer.checkpoints.under_way import UnderWay
from maws_composer.checkpoints.upload import Uploader
from maws_composer.checkpoints.writing import CheckpointWriter, Draft, Saved, draft
from maws_composer.config.durations import parse_duration
from maws_composer.config.run import Run
from maws_composer.outages import StorageError
from maws_composer.parallel.agree import cpu_group

if TYPE_CHECKING:
    from cloudpathlib import CloudPath

log = logging.getLogger(__name__)

# Small files of the run's folder that go to object storage with every checkpoint.
TRAVELLERS = ("config.yaml", "metrics.jsonl", "starts.jsonl", "report.html")

# Which locked encoder a checkpoint belongs to, if it has none itself.
ENCODER_FILE = "encoder.json"

# By which tokenizer and text configuration it was trained.
TEXT_FILE = "text.json"


class ShardedCheckpoints(CheckpointSaver):
    """Composer's saver with its contents and names, whose checkpoints are complete or do not exist.

    A failure to save or to upload one is raised on every rank at the same step.

    Args:
        folder: where the run lives.
        run: for how often, how many stay, and how long object storage may be away.
        group: of the main threads' CPUs.
    """

    def __init__(self, folder: RunFolder, run: Run, group: dist.ProcessGroup) -> None:
        super().__init__(
            folder=str(folder.checkpoints),
            filename="ep{epoch}-ba{batch}-rank{rank}.pt",
            remote_file_name=None,
            latest_filename=None,
            save_interval=run.save_interval.replace("_", ""),
            overwrite=True,
        )
        self._run = folder
        self._keep = run.save_num_checkpoints_to_keep
        self._keep_every = parse_duration(run.save_keep_every).amount if run.save_keep_every else None
        self._is_async = run.save_async
        self._patience = run.storage_patience
        self._uploader = Uploader(folder.url, self._patience) if folder.is_remote else None
        beside = [folder.local / name for name in ("config.yaml", ENCODER_FILE, TEXT_FILE)]
        self._writer = CheckpointWriter(not folder.is_remote, beside, cpu_group(run.longest_wait))
        self._under_way = UnderWay(self._uploader, group)

    def init(self, state: State, logger: Logger) -> None:
        super().init(state, logger)
        if dist.get_rank() == 0:
            abort_cut_off_uploads(self._run.home / "checkpoints")

    def after_load(self, state: State, logger: Logger) -> None:
        self.last_checkpoint_batch = state.timestamp.batch  # what was loaded need not be saved

    def batch_start(self, state: State, logger: Logger) -> None:
        self._under_way.look()

    def fit_end(self, state: State, logger: Logger) -> None:
        self.settle()

    def close(self, state: State, logger: Logger) -> None:
        if self._uploader is not None:
            self._uploader.close()

    def settle(self) -> None:
        """Wait for the checkpoint that is under way, if there is one. A collective.

        Raises:
            SaveError, StorageError: on every rank, if it failed on one.
        """
        self._under_way.settle()

    def save_before_leaving(self, state: State, leave_by: float, owes: Sequence[str]) -> None:
        """Save what is not saved yet, and upload what time allows. A collective.

        Of two uploads there is time for one: the new checkpoint's, unless the last one took longer than is left.

        Args:
            state: of the run, between two steps.
            leave_by: time.monotonic() at which the machine may be gone.
            owes: what the metrics of evaluations begin with that were cut off after this step.
        """
        if not self._under_way.is_written(until=leave_by):
            log.warning("there was no time to save what was being saved; what was saved before it counts")
            return
        is_new = state.timestamp.batch > 0 and state.timestamp.batch != self.last_checkpoint_batch
        if is_new:
            began = time.monotonic()
            saved = self._writer.write(self._prepare(state), owes)
            _announce(saved, began)
        if self._uploader is None:
            return
        fits = all(composer_dist.all_gather_object(self._uploader.seconds < leave_by - time.monotonic()))
        if is_new and fits:
            self._uploader.close()
            self._uploader = Uploader(self._run.url, self._patience)
            self._start_upload(self._uploader, saved)
        try:
            arrived = self._uploader.wait(leave_by)
        except StorageError as error:
            log.warning("%s", error)
            arrived = False
        if not arrived or (is_new and not fits):
            log.warning("there was no time to upload the last checkpoint; this machine has it, in %s", self._run.local)
        dist.barrier()

    def _save_checkpoint(self, state: State, logger: Logger) -> None:
        self.settle()  # never two under way
        began = time.monotonic()
        prepared = self._prepare(state)
        if self._is_async:
            prepared = prepared.copied_to_host()
        waited = time.monotonic() - began if self._is_async else None
        self._under_way.begin(lambda: self._complete(prepared, began, waited), in_background=self._is_async)

    def _prepare(self, state: State) -> Draft:
        self.last_checkpoint_batch = state.timestamp.batch
        prepared = draft(state, self._run.checkpoints)
        self._writer.prepare(prepared)
        return prepared

    def _complete(self, prepared: Draft, began: float, waited: float | None) -> None:
        """Write, and begin what follows from a checkpoint that is complete: the upload, or the end of older ones."""
        saved = self._writer.write(prepared)
        _announce(saved, began, waited)
        if self._uploader is not None:
            self._start_upload(self._uploader, saved)
        elif dist.get_rank() == 0:
            self._tidy_up(self._run.checkpoints, saved)

    def _tidy_up(self, checkpoints: RunPath, saved: Saved) -> None:
        retire(checkpoints, saved.batch, self._keep, self._keep_every)

    def _start_upload(self, uploader: Uploader, saved: Saved) -> None:
        uploader.start(lambda home: self._upload(uploader, home, saved))

    def _upload(self, uploader: Uploader, home: CloudPath, saved: Saved) -> None:
        """In the uploader's thread: this rank's files, and on rank 0 the marker when all have arrived."""
        relative = f"checkpoints/{saved.folder.name}"
        for path in self._writer.own_files(saved.folder):
            uploader.put(home, path, f"{relative}/{path.name}")
        if dist.get_rank() == 0:
            for name in TRAVELLERS:
                if (self._run.local / name).exists():
                    uploader.put(home, self._run.local / name, name)
            uploader.put_marker(home, saved.folder, relative, saved.files)
            for name in uploader.insist(lambda: unsent_pictures(self._run.local, home), "pictures"):
                uploader.put(home, self._run.local / name, name)
            uploader.insist(lambda: self._tidy_up(home / "checkpoints", saved), "checkpoints")
        if composer_dist.get_local_rank() == 0:
            drop_older_copies(self._run.checkpoints, saved.folder)


def run_folder_here(state: State) -> Path:
    """The folder on this machine that the run's files are written to."""
    saver = next(each for each in state.callbacks if isinstance(each, ShardedCheckpoints))
    return Path(saver.folder).parent


def _announce(saved: Saved, began: float, waited: float | None = None) -> None:
    seconds = time.monotonic() - began
    size = in_bytes(sum(saved.files.values()))
    meanwhile = "" if waited is None else f"; training waited for {waited:.2f} s"
    log.info("saved %s: %s in %.1f s%s", saved.folder, size, seconds, meanwhile)
