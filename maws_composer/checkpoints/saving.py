"""Saving: local first, the marker last, then a copy in object storage."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path

from cloudpathlib import CloudPath
from composer.callbacks import CheckpointSaver
from composer.core import State
from composer.loggers import Logger
from composer.utils import dist
from composer.utils.checkpoint import save_checkpoint

from maws_composer.checkpoints.completeness import (
    MARKER,
    Checkpoint,
    RunPath,
    checkpoint_name,
    read_newest_first,
    write_marker,
)
from maws_composer.checkpoints.run_folder import RunFolder
from maws_composer.checkpoints.upload import Uploader, UploadError
from maws_composer.config.durations import parse_duration
from maws_composer.config.run import Run

log = logging.getLogger(__name__)

# Small files of the run's folder that go to object storage with every checkpoint.
TRAVELLERS = ("config.yaml", "metrics.jsonl")

# Which locked encoder a checkpoint belongs to, if it has none itself.
ENCODER_FILE = "encoder.json"

# By which tokenizer and text configuration it was trained.
TEXT_FILE = "text.json"


class ShardedCheckpoints(CheckpointSaver):
    """Composer's saver with its contents and names, whose checkpoints are complete or do not exist.

    Args:
        folder: where the run lives.
        run: for how often, how many stay, and how long object storage may be away.
    """

    def __init__(self, folder: RunFolder, run: Run) -> None:
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
        self._patience = run.storage_patience
        self._uploader = Uploader(folder.url, self._patience) if folder.is_remote else None

    def after_load(self, state: State, logger: Logger) -> None:
        self.last_checkpoint_batch = state.timestamp.batch  # what was loaded need not be saved

    def batch_start(self, state: State, logger: Logger) -> None:
        if self._uploader is not None:
            self._uploader.check()

    def fit_end(self, state: State, logger: Logger) -> None:
        if self._uploader is not None:
            self._uploader.wait()
            dist.barrier()  # nobody leaves while rank 0 still waits for the others' files

    def save_before_leaving(self, state: State, leave_by: float, owes_evaluation: bool) -> None:
        """Save what is not saved yet, and upload what time allows. A collective.

        Of two uploads there is time for one: the new checkpoint's, unless the last one took longer than is left.

        Args:
            state: of the run, between two steps.
            leave_by: time.monotonic() at which the machine may be gone.
            owes_evaluation: an evaluation after this step was cut off.
        """
        is_new = state.timestamp.batch > 0 and state.timestamp.batch != self.last_checkpoint_batch
        if is_new:
            folder, files = self._save_locally(state, owes_evaluation)
        if self._uploader is None:
            return
        fits = all(dist.all_gather_object(self._uploader.seconds < leave_by - time.monotonic()))
        if is_new and fits:
            self._uploader.close()
            self._uploader = Uploader(self._run.url, self._patience)
            self._start_upload(self._uploader, folder, files)
        try:
            arrived = self._uploader.wait(leave_by)
        except UploadError as error:
            log.warning("%s", error)
            arrived = False
        if not arrived or (is_new and not fits):
            log.warning("there was no time to upload the last checkpoint; this machine has it, in %s", self._run.local)
        dist.barrier()

    def close(self, state: State, logger: Logger) -> None:
        if self._uploader is not None:
            self._uploader.close()

    def _save_checkpoint(self, state: State, logger: Logger) -> None:
        if self._uploader is not None:
            self._uploader.wait()  # never two in flight
        folder, files = self._save_locally(state)
        if self._uploader is None:
            if dist.get_global_rank() == 0:
                retire(self._run.checkpoints, self._keep, self._keep_every)
        else:
            self._start_upload(self._uploader, folder, files)

    def _save_locally(self, state: State, owes_evaluation: bool = False) -> tuple[Path, dict[str, int]]:
        """The checkpoint's folder, and the names and sizes of all ranks' files."""
        began = time.monotonic()
        self.last_checkpoint_batch = state.timestamp.batch
        name = checkpoint_name(int(state.timestamp.epoch), int(state.timestamp.batch))
        folder = self._run.checkpoints / name
        self._clear_leftovers(folder)
        save_checkpoint(state=state, filename=self.filename.format(state, keep_placeholders=True))
        files = self._declare_complete(folder, int(state.timestamp.sample), owes_evaluation)
        log.info("saved %s: %.1f MB in %.1f s", folder, sum(files.values()) / 1e6, time.monotonic() - began)
        return folder, files

    def _clear_leftovers(self, folder: Path) -> None:
        """Remove what a killed process left half-written under the same name."""
        cleans = dist.get_local_rank() if self._run.is_remote else dist.get_global_rank()
        if cleans == 0 and folder.exists():
            log.warning("%s is there already, from before a restart; writing it again", folder)
            shutil.rmtree(folder, ignore_errors=True)
        dist.barrier()

    def _declare_complete(self, folder: Path, samples: int, owes_evaluation: bool) -> dict[str, int]:
        """Write the marker, on rank 0; returns the names and sizes of all ranks' files."""
        if dist.get_global_rank() == 0:
            for name in ("config.yaml", ENCODER_FILE, TEXT_FILE):
                if (self._run.local / name).exists():
                    shutil.copy(self._run.local / name, folder)
        mine = {path.name: path.stat().st_size for path in self._own_files(folder)}
        files = {name: size for part in dist.all_gather_object(mine) for name, size in part.items()}
        if dist.get_global_rank() == 0:
            world_size = dist.get_world_size()
            write_marker(folder, files, samples=samples, world_size=world_size, owes_evaluation=owes_evaluation)
        dist.barrier()
        return files

    def _own_files(self, folder: Path) -> list[Path]:
        rank = dist.get_global_rank()
        shared = [folder / name for name in (".metadata", "config.yaml", ENCODER_FILE, TEXT_FILE)] if rank == 0 else []
        return [*(path for path in shared if path.exists()), *folder.glob(f"__{rank}_*.distcp")]

    def _start_upload(self, uploader: Uploader, folder: Path, files: dict[str, int]) -> None:
        uploader.start(lambda home: self._upload(uploader, home, folder, files))

    def _upload(self, uploader: Uploader, home: CloudPath, folder: Path, files: dict[str, int]) -> None:
        """In the uploader's thread: this rank's files, and on rank 0 the marker when all have arrived."""
        relative = f"checkpoints/{folder.name}"
        for path in self._own_files(folder):
            uploader.put(home, path, f"{relative}/{path.name}")
        if dist.get_global_rank() == 0:
            for name in TRAVELLERS:
                if (self._run.local / name).exists():
                    uploader.put(home, self._run.local / name, name)
            uploader.put_marker(home, folder, relative, files)
            uploader.insist(lambda: retire(home / "checkpoints", self._keep, self._keep_every), "checkpoints")
        if dist.get_local_rank() == 0:
            self._drop_older_copies(folder)

    def _drop_older_copies(self, newest: Path) -> None:
        """Of the local copies of what is in object storage, this node keeps the newest two."""
        copies = sorted(self._run.checkpoints.iterdir(), key=lambda path: path.stat().st_mtime)
        for copy in copies[:-2]:
            if copy != newest:
                shutil.rmtree(copy, ignore_errors=True)


def retire(checkpoints: RunPath, keep: int, keep_every: int | None) -> None:
    """Delete complete checkpoints beyond the newest `keep`, but for those whose batch is a multiple of `keep_every`."""
    complete = [found for found in read_newest_first(checkpoints) if isinstance(found, Checkpoint)]
    for old in complete[keep:]:
        if keep_every is None or old.batch % keep_every:
            delete_checkpoint(checkpoints / old.name)


def delete_checkpoint(folder: RunPath) -> None:
    """Delete a complete checkpoint."""
    (folder / MARKER).unlink()  # first: a half-deleted checkpoint must not look whole
    shutil.rmtree(folder, ignore_errors=True) if isinstance(folder, Path) else folder.rmtree()
