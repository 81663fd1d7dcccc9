"""One part: a run of samples, written into a folder of its own by one process."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from streaming import MDSWriter

from maws_composer.data.columns import CAPTION, HASHTAGS, ID, IMAGE, LABELS
from maws_composer.data.decode import UndecodableImageError
from streaming_conversion.problems import ConversionError
from streaming_conversion.resizing import Resizing
from streaming_conversion.source import Entry
from streaming_conversion.verify import why_unusable

UPLOAD_ATTEMPTS = 6  # 1 + 2 + 4 + 8 + 16 s: survives an outage of half a minute


@dataclass(frozen=True)
class PartTask:
    """What a process needs to know to write a part.

    Args:
        name: of the part's folder.
        entries: its samples.
        load: see `Source`.
        columns: column -> MDS encoding.
        folder: where it is written on this machine.
        remote: where in object storage it goes from there, or None.
        shard_bytes: largest size of a shard.
        decode, max_pixels: see `why_unusable`.
        resizing: of larger pictures; None: all stay as they are.
    """

    name: str
    entries: Sequence[Entry]
    load: Callable[[str], bytes]
    columns: dict[str, str]
    folder: Path
    remote: str | None
    shard_bytes: int
    decode: bool
    max_pixels: int
    resizing: Resizing | None = None


@dataclass(frozen=True)
class PartResult:
    """What a part's marker says. A part without its marker does not exist.

    Args:
        shards: the part's entries of an MDS index, names relative to the part's folder.
        skipped: one {"id", "source", "reason"} per picture that was left out.
        images: how many were written.
        without: column -> how many of these have no hashtag, or no caption.
        resized: how many of these were made smaller.
    """

    shards: list[dict[str, Any]]
    skipped: list[dict[str, str]]
    images: int
    without: dict[str, int]
    resized: int = 0  # not in the markers of earlier versions

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class PartWriter(MDSWriter):
    """MDSWriter, with two cures, each with a test that fails when it is no longer needed.

    A picture larger than a shard made an empty shard before it; a failed upload was an exception without its reason.
    Not to be used in a `with` by itself: it writes an index that looks whole after an exception, too.
    """

    upload_error: BaseException | None = None

    def flush_shard(self) -> None:
        if self.new_samples:
            super().flush_shard()

    def end_shard(self) -> None:
        """Put the next sample into a new shard."""
        self.flush_shard()
        self._reset_cache()

    def exception_callback(self, future: Future[Any]) -> None:
        self.upload_error = self.upload_error or future.exception()
        super().exception_callback(future)


@contextmanager
def open_part(
    folder: Path, remote: str | None, columns: dict[str, str], shard_bytes: int | None
) -> Iterator[PartWriter]:
    """A writer of a part's shards and its `index.json`, in place of what an interrupted conversion left there.

    Args:
        folder, remote, columns: see `PartTask`.
        shard_bytes: largest size of a shard; None: where it ends is said by `end_shard`.

    Raises:
        ConversionError: a shard could not be uploaded.
    """
    shutil.rmtree(folder, ignore_errors=True)
    writer = PartWriter(
        columns=columns,
        out=(str(folder), remote) if remote else str(folder),
        hashes=["sha1"],
        size_limit=shard_bytes,
        retry=UPLOAD_ATTEMPTS,
        max_workers=4,
    )
    try:
        yield writer
        writer.finish()
    except BaseException as error:
        writer.cancel_future_jobs()
        if writer.upload_error is not None:
            raise ConversionError(f"{remote}: the upload failed: {writer.upload_error}") from error
        raise


def write_part(task: PartTask, tick: Callable[[], None]) -> PartResult:
    """Write the samples of a part.

    Args:
        task: what to write.
        tick: called after each sample.

    Raises:
        ConversionError: a picture could not be read, or a shard not be uploaded.
    """
    with open_part(task.folder, task.remote, task.columns, task.shard_bytes) as writer:
        result = _write_samples(task, writer, tick)
    return replace(result, shards=writer.shards)


def _write_samples(task: PartTask, writer: PartWriter, tick: Callable[[], None]) -> PartResult:
    """The result is without the shards, which are not finished.

    Each entry is looked at once, and its picture right after: both may lie in a shard that has to be fetched.
    """
    skipped: list[dict[str, str]] = []
    images, resized, without = 0, 0, {HASHTAGS: 0, CAPTION: 0}
    for entry in task.entries:
        original = _load(task, entry)
        image, reason = _smaller(task, original)
        reason = reason or why_unusable(image, task.decode, task.max_pixels)
        if reason is None:
            writer.write(_sample(entry, image))
            images += 1
            resized += image is not original
            without[HASHTAGS] += entry.hashtags == ()
            without[CAPTION] += entry.caption == ""
        else:
            skipped.append({"id": entry.id, "source": entry.key, "reason": reason})
        tick()
    return PartResult([], skipped, images, without, resized)


def _load(task: PartTask, entry: Entry) -> bytes:
    try:
        return task.load(entry.key)
    except OSError as error:
        # not skipped: storage that is away for a moment must not cost pictures
        raise ConversionError(f"{entry.key} cannot be read: {error.strerror or error}") from error


def _smaller(task: PartTask, image: bytes) -> tuple[bytes, str | None]:
    """The picture as it is stored, or why it cannot be had."""
    if task.resizing is None:
        return image, None
    try:
        return task.resizing(image, task.max_pixels), None
    except UndecodableImageError as error:
        return image, f"cannot be resized: {error}"


def _sample(entry: Entry, image: bytes) -> dict[str, Any]:
    sample: dict[str, Any] = {IMAGE: image, ID: entry.id}
    if entry.hashtags is not None:
        sample[HASHTAGS] = list(entry.hashtags)
    if entry.caption is not None:
        sample[CAPTION] = entry.caption
    if entry.labels is not None:
        sample[LABELS] = np.array(entry.labels, np.int32)
    return sample
