"""What goes: old checkpoints, and what killed saves and uploads left behind. Nothing before a newer one is complete."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maws_composer.checkpoints.completeness import MARKER, Checkpoint, RunPath, read_newest_first
from maws_composer.checkpoints.ranges import s3_client
from maws_composer.config.durations import parse_duration, samples

if TYPE_CHECKING:
    from cloudpathlib import S3Path

    from maws_composer.config.run import Run

log = logging.getLogger(__name__)


def retire(checkpoints: RunPath, newest: int, keep: int, keep_every: int | None) -> None:
    """Tidy up after a checkpoint has been completed.

    Of complete ones the newest `keep` stay, and those whose batch is a multiple of `keep_every`. What was cut off
    before its marker was written goes. What was complete once and is damaged stays, for somebody to look at.

    Args:
        checkpoints: of a run, local or in object storage.
        newest: batch of the one that has just been completed. Later ones, which a resume passed over, do not count.
        keep, keep_every: how many stay.
    """
    earlier = [found for found in read_newest_first(checkpoints) if found.batch <= newest]
    complete = [found for found in earlier if isinstance(found, Checkpoint)]
    for old in complete[keep:]:
        if keep_every is None or old.batch % keep_every:
            delete_checkpoint(checkpoints / old.name)
    for found in earlier:
        if not isinstance(found, Checkpoint) and found.was_cut_off and found.batch < newest:
            log.info("removing %s: %s", found.folder, found.reason)
            remove_folder(checkpoints / found.name)


def checkpoints_at_once(run: Run) -> int:
    """How many lie in the run's folder when it is fullest: while the last one is being written, that one included."""
    steps = -(-samples(run.max_duration) // run.global_train_batch_size)
    interval = parse_duration(run.save_interval)
    every = interval.amount if interval.unit == "ba" else max(interval.amount // run.global_train_batch_size, 1)
    before = max(steps - 1, 0) // every
    newest = min(before, run.save_num_checkpoints_to_keep)
    for_good = 0
    if run.save_keep_every is not None:
        for_good = (before - newest) * every // parse_duration(run.save_keep_every).amount
    return newest + for_good + 1


def delete_checkpoint(folder: RunPath) -> None:
    """Delete a complete checkpoint."""
    (folder / MARKER).unlink()  # first: a half-deleted checkpoint must not look whole
    remove_folder(folder)


def drop_older_copies(checkpoints: Path, newest: Path) -> None:
    """Of the local copies of what is in object storage, this node keeps the newest two."""
    copies = sorted(checkpoints.iterdir(), key=lambda path: path.stat().st_mtime)
    for copy in copies[:-2]:
        if copy != newest:
            shutil.rmtree(copy, ignore_errors=True)


def abort_cut_off_uploads(checkpoints: RunPath) -> None:
    """Free what parts of large files cost that a killed process began to upload: S3 keeps them, and shows them nowhere.

    To be called before this run uploads anything. A server, or a permission, that does not offer it is no obstacle.
    """
    from cloudpathlib import S3Path

    if not isinstance(checkpoints, S3Path):
        return
    try:
        client = s3_client(os.environ.get("S3_ENDPOINT_URL"))
        begun = _begun_uploads(client, checkpoints)
        for upload in begun:
            client.abort_multipart_upload(Bucket=checkpoints.bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    except Exception as error:  # botocore has many
        log.info("cannot look for uploads to %s that were cut off: %s", checkpoints, error)
        return
    if begun:
        log.info("removed %d uploads to %s that were cut off", len(begun), checkpoints)


def _begun_uploads(client: Any, checkpoints: S3Path) -> list[dict[str, Any]]:
    pages = client.get_paginator("list_multipart_uploads").paginate(
        Bucket=checkpoints.bucket, Prefix=checkpoints.key.rstrip("/") + "/"
    )
    return [upload for page in pages for upload in page.get("Uploads", [])]


def remove_folder(folder: RunPath) -> None:
    shutil.rmtree(folder, ignore_errors=True) if isinstance(folder, Path) else folder.rmtree()
