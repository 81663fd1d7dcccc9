"""Writing one sharded checkpoint, all ranks together: while training waits, or in a thread while it goes on.

What the ranks have to tell one another goes over a process group of its own, on the CPU, so that it never mixes with
training's. A failure on one rank is a `SaveError` on all of them, with the same reason.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from composer.core import State
from composer.utils import dist as composer_dist
from composer.utils import reproducibility
from torch import Tensor
from torch.distributed.checkpoint import DefaultSavePlanner, FileSystemWriter
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor, Replicate
from torch.utils._pytree import tree_map_only

from maws_composer.checkpoints.checksums import checksum
from maws_composer.checkpoints.completeness import MARKER, checkpoint_name, in_bytes, write_marker
from maws_composer.config.problems import ForeseenError
from maws_composer.parallel.agree import on_every_rank

log = logging.getLogger(__name__)

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class SaveError(ForeseenError):
    """A checkpoint could not be written. Those before it are as they were."""


@dataclass(frozen=True)
class Draft:
    """A checkpoint to be written.

    Attributes:
        folder: a new one.
        batch: steps done.
        samples: samples seen.
        contents: what this rank holds of it, under Composer's keys.
        storage: torch's writer of the folder.
    """

    folder: Path
    batch: int
    samples: int
    contents: dict[str, Any]
    storage: FileSystemWriter

    def copied_to_host(self) -> Draft:
        """What this rank will write of it, in host memory, where later steps do nothing to it."""
        contents = _without_copies(self.contents)
        on_host: dict[str, Any] = {}
        if torch.cuda.is_available():  # Composer has brought these from the GPU, once is enough
            on_host = {name: contents["state"].pop(name) for name in ("model", "optimizers")}
        staged: dict[str, Any] = self.storage.stage(contents)
        staged["state"] |= tree_map_only(Tensor, _own, on_host)
        return replace(self, contents=staged)


@dataclass(frozen=True)
class Saved:
    """A checkpoint that is complete.

    Attributes:
        folder: where.
        batch: steps done.
        files: names and sizes in bytes, of all ranks.
    """

    folder: Path
    batch: int
    files: dict[str, int]


class CheckpointWriter:
    """Writes one checkpoint after the other; the next may begin when the one before has ended.

    Args:
        is_shared: all nodes see the same folder; otherwise each has one of its own.
        beside: files of one's own that go into a checkpoint, where they exist.
        group: for this alone, since it may be used by a thread of its own.
    """

    def __init__(self, is_shared: bool, beside: list[Path], group: dist.ProcessGroup) -> None:
        self._group = group
        self._is_shared = is_shared
        self._beside = beside
        self._needed = 0  # bytes of the checkpoint that is being written, on this node

    def prepare(self, draft: Draft) -> None:
        """Make the folder, and see that there is room for what will be written. A collective.

        What a killed process left half-written under the same name goes.

        Raises:
            SaveError: there is not, or it is not ours to write to.
        """
        node = 0 if self._is_shared else composer_dist.get_node_rank()
        shares = on_every_rank(lambda: (node, bytes_to_write(draft.contents)), self._group)
        self._needed = sum(count for its_node, count in shares if its_node == node)
        on_every_rank(lambda: _make_room(draft.folder, self._needed) if self._keeps_house else None, self._group)

    def write(self, draft: Draft, owes: Sequence[str] = ()) -> Saved:
        """Write, take checksums, and declare complete. A collective, in any thread.

        Args:
            draft: which has been prepared.
            owes: for the marker.

        Raises:
            SaveError: what was written of it is gone, so that there is room for metrics and status.
        """
        try:
            dcp.save(
                draft.contents,
                storage_writer=draft.storage,
                planner=DefaultSavePlanner(dedup_save_to_lowest_rank=True),  # as Composer's
                process_group=self._group,
            )
            return self._declare_complete(draft, owes)
        except (CheckpointException, Exception) as error:  # torch's is no Exception
            if self._keeps_house and not (draft.folder / MARKER).exists():
                shutil.rmtree(draft.folder, ignore_errors=True)
            raise _save_error(draft.folder, _cause(error), self._needed) from error

    def _declare_complete(self, draft: Draft, owes: Sequence[str]) -> Saved:
        parts = on_every_rank(lambda: self._look_at_own_files(draft.folder), self._group)
        looked = {name: entry for part in parts for name, entry in part.items()}
        files = {name: size for name, (size, _) in looked.items()}

        def declare() -> None:
            if dist.get_rank() == 0:
                write_marker(
                    draft.folder,
                    files,
                    samples=draft.samples,
                    world_size=dist.get_world_size(),
                    owes=owes,
                    checksums={name: value for name, (_, value) in looked.items()},
                )

        on_every_rank(declare, self._group)
        return Saved(draft.folder, draft.batch, files)

    def _look_at_own_files(self, folder: Path) -> dict[str, tuple[int, str]]:
        """Names, sizes and checksums of what this rank wrote."""
        if dist.get_rank() == 0:
            for file in self._beside:
                if file.exists():
                    shutil.copy(file, folder)
        return {path.name: (path.stat().st_size, checksum(path)) for path in self.own_files(folder)}

    def own_files(self, folder: Path) -> list[Path]:
        """Of a checkpoint's files those that this rank wrote."""
        shared = [".metadata", *(file.name for file in self._beside)] if dist.get_rank() == 0 else []
        existing = [folder / name for name in shared if (folder / name).exists()]
        return [*existing, *sorted(folder.glob(f"__{dist.get_rank()}_*.distcp"))]

    @property
    def _keeps_house(self) -> bool:
        """Whether this rank makes and removes the folder that it writes to."""
        return (composer_dist.get_global_rank() if self._is_shared else composer_dist.get_local_rank()) == 0


def draft(state: State, checkpoints: Path) -> Draft:
    """What Composer's own `save_checkpoint` would save of a sharded run, and where. A collective."""
    contents = {"state": state.state_dict(), "rng": reproducibility.get_rng_state()}
    if dist.get_rank() > 0:
        del contents["rng"]  # of all ranks, gathered
    epoch, batch, samples = (int(state.timestamp.get(unit).value) for unit in ("ep", "ba", "sp"))
    folder = checkpoints / checkpoint_name(epoch, batch)
    return Draft(folder, batch, samples, contents, FileSystemWriter(folder))


def bytes_to_write(contents: dict[str, Any]) -> int:
    """Of a checkpoint's tensors, what this rank will write: its shards, of copies the first."""
    flat, _ = flatten_state_dict(contents)
    return sum(_own_bytes(value) for value in flat.values() if isinstance(value, torch.Tensor))


def _own_bytes(tensor: torch.Tensor) -> int:
    if not isinstance(tensor, DTensor):
        return tensor.nbytes if dist.get_rank() == 0 else 0
    return 0 if _is_copy(tensor) else tensor.to_local().nbytes


def _own(tensor: Tensor) -> Tensor:
    """Shards that were on the GPU are copies; a count that an optimizer keeps on the host may be the one it goes on
    with."""
    return tensor if isinstance(tensor, DTensor) else tensor.clone()


def _without_copies(contents: dict[str, Any]) -> dict[str, Any]:
    """Without the shards that the first replica writes, if this rank belongs to another."""
    return {
        key: _without_copies(value) if isinstance(value, dict) else value
        for key, value in contents.items()
        if not (isinstance(value, DTensor) and _is_copy(value))
    }


def _is_copy(tensor: DTensor) -> bool:
    where = tensor.device_mesh.get_coordinate() or []
    return any(at and isinstance(placed, Replicate) for at, placed in zip(where, tensor.placements, strict=True))


def _make_room(folder: Path, needed: int) -> None:
    if folder.exists():
        log.warning("%s is there already, from before a restart; writing it again", folder)
        shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        disk = shutil.disk_usage(folder)
        if disk.total and disk.free < needed:  # some file systems do not say
            folder.rmdir()
            raise OSError(errno.ENOSPC, "no space left on device")
    except OSError as error:
        raise _save_error(folder, error, needed) from error


def _cause(error: BaseException) -> BaseException:
    """The first of the ranks' failures: the others may follow from it."""
    return min(error.failures.items())[1][0] if isinstance(error, CheckpointException) else error


def _save_error(folder: Path, error: BaseException, needed: int) -> SaveError:
    free = shutil.disk_usage(next(parent for parent in folder.parents if parent.exists())).free
    number = error.errno if isinstance(error, OSError) else None
    if number is None and free < needed:
        number = errno.ENOSPC  # torch's writer says of a full disk that it is at an unexpected position
    reason = os.strerror(number).lower() if number else repr(error)
    cure = "make room there, or lower save_num_checkpoints_to_keep; " if number in _NO_ROOM else ""
    return SaveError(
        f"{folder} could not be saved: {reason}. {in_bytes(needed)} were to be written, {in_bytes(free)} are free. "
        f"The checkpoints before it are whole; {cure}the same command goes on from the newest"
    )
