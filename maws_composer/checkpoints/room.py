"""Whether a run will be able to save: looked at before the first step, not after hours of them."""

from __future__ import annotations

import logging
import secrets
import shutil
from pathlib import Path

from maws_composer.checkpoints.completeness import in_bytes
from maws_composer.checkpoints.retention import checkpoints_at_once
from maws_composer.checkpoints.run_folder import open_path
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.config.run import Run
from maws_composer.disks import check_writable, nearest_existing
from maws_composer.outages import OutageError, is_mistake
from maws_composer.parallel.degrees import sharding_degrees
from maws_composer.planning.memory import checkpoint_bytes
from maws_composer.planning.plan import kept_by_callbacks

log = logging.getLogger(__name__)

_COPIES = 3  # that a node has at once of what goes to object storage: two, and one that is being written


def check_room(run: Run, trained: int, world_size: int, nodes: int) -> list[Problem]:
    """Whether the folders that checkpoints go to can be written to, and have room for one; warns of too few.

    Says how much host memory a node needs for what is written while training goes on.

    Args:
        run: its save_folder is local, or in object storage; then a node writes its part to speed.scratch_folder first.
        trained: number of parameters that are; others are few, or left out.
        world_size: number of GPUs.
        nodes: that they are on.

    Raises:
        OutageError: object storage is away.
    """
    one = checkpoint_bytes(trained, kept_by_callbacks(run))
    part = _part_of_node(one, run.speed.sharding.shard, world_size, world_size // nodes)
    if run.save_async:
        log.info("while a checkpoint is saved, a node needs %s of host memory for it", in_bytes(part))
    if "://" not in run.save_folder:
        folder, at_once = Path(run.save_folder), checkpoints_at_once(run)
        why = f"{at_once} at once, by save_num_checkpoints_to_keep and save_keep_every, one of them being written"
        return _local_problems("save_folder", folder, one, at_once * one - _size(folder / "checkpoints"), why)
    scratch, why = Path(run.speed.scratch_folder), "the newest two, one that is being written, or one to start again"
    local = _local_problems("speed.scratch_folder", scratch, part, max(_COPIES * part, one + part), why)
    return [*local, *_remote_problems(run.save_folder)]


def _part_of_node(one: int, shard: int | None, world_size: int, per_node: int) -> int:
    """Bytes of a checkpoint that a node of the first replica writes; other replicas write nothing."""
    _, degree = sharding_degrees(world_size, shard)
    return one * min(per_node, degree) // degree


def _local_problems(key: str, folder: Path, one: int, together: int, why: str) -> list[Problem]:
    """Problems with writing so many bytes to a folder; a warning if it has no room for all that will lie there."""
    checkpoints = folder / "checkpoints"
    if problems := [*check_writable(key, folder), *check_writable(key, checkpoints)]:
        return problems[:1]
    disk = shutil.disk_usage(nearest_existing(checkpoints))
    if not disk.total:  # some file systems do not say
        return []
    if disk.free < one:
        message = f"a checkpoint takes {in_bytes(one)} in {folder}, {in_bytes(disk.free)} are free; make room there"
        return [Problem(key, f"{message}, or name another folder")]
    if disk.free < together:
        log.warning(
            "%s: checkpoints will take %s more in %s (%s), %s are free",
            *(key, in_bytes(together), folder, why, in_bytes(disk.free)),
        )
    return []


def _remote_problems(save_folder: str) -> list[Problem]:
    try:
        home = open_path(save_folder)
    except ConfigError as error:
        return error.problems
    try:
        probe = home / f".writable-{secrets.token_hex(4)}"
        probe.write_text("x")
        probe.unlink()
    except Exception as error:  # each storage library has exceptions of its own
        problem = Problem("save_folder", f"{save_folder} is not writable: {error}")
        if is_mistake(error):
            return [problem]
        raise OutageError([problem]) from error
    return []


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*/*") if path.is_file())
