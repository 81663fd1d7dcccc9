"""`maws-composer checkpoints`: what a run has saved, and whether it is still what was written."""

from __future__ import annotations

from collections.abc import Sequence

from tqdm import tqdm

from maws_composer.checkpoints.checksums import find_damage
from maws_composer.checkpoints.completeness import Checkpoint, PassedOver, in_bytes, read_newest_first
from maws_composer.checkpoints.run_folder import open_path
from maws_composer.config.problems import ConfigError, Problem

_HEAD = ("checkpoint", "step", "samples", "size", "saved", "processes", "torch", "composer", "complete")
_RIGHT = ("step", "samples", "size", "processes")

Found = Checkpoint | PassedOver


def find_checkpoints(run: str, names: Sequence[str] = ()) -> list[Found]:
    """A run's checkpoints, the newest first, complete or not.

    Args:
        run: its folder, local or in object storage.
        names: of those that are asked for, such as ep0-ba100. Default: all.

    Raises:
        ConfigError: it is no run, or has no checkpoint of that name.
    """
    folder = open_path(run, "RUN") / "checkpoints"
    try:
        found = {each.name: each for each in read_newest_first(folder)}
        exists = bool(found) or folder.exists()
    except Exception as error:  # each storage library has exceptions of its own
        raise ConfigError([Problem("RUN", f"{run} is not readable: {error}")]) from error
    if not exists:
        raise ConfigError([Problem("RUN", f"{run} has no folder checkpoints; name the folder of a run")])
    if unknown := [name for name in names if name not in found]:
        known = ", ".join(found) or "none"
        raise ConfigError([Problem("NAME", f"{run} has no checkpoint {name}; it has {known}") for name in unknown])
    return [each for name, each in found.items() if not names or name in names]


def verify(found: Sequence[Found]) -> dict[str, str]:
    """Read every byte of the complete ones; returns what is wrong with those that claim to be complete, by name."""
    wrong = {each.name: each.reason for each in found if isinstance(each, PassedOver) and not each.was_cut_off}
    for checkpoint in found:
        if isinstance(checkpoint, Checkpoint):
            with tqdm(total=checkpoint.size, desc=checkpoint.name, unit="B", unit_scale=True) as bar:
                damage = find_damage(open_path(checkpoint.folder), checkpoint, checkpoint.files, bar.update)
            if damage:
                wrong[checkpoint.name] = "; ".join(damage)
    return wrong


def describe(found: Sequence[Found], wrong: dict[str, str] | None = None) -> str:
    """A table.

    Args:
        found: see `find_checkpoints`.
        wrong: what `verify` returned, if it was asked.
    """
    if not found:
        return "no checkpoints"
    rows = [_HEAD, *(_row(each, wrong) for each in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    return "\n".join(_line(row, widths) for row in rows)


def _row(found: Found, wrong: dict[str, str] | None) -> tuple[str, ...]:
    if isinstance(found, PassedOver):
        return (found.name, f"{found.batch:,}", *["-"] * 6, f"no: {found.reason}")
    saved = (found.time or "-").replace("T", " ").replace("+00:00", " UTC")
    processes = str(found.world_size or "-")
    return (
        *(found.name, f"{found.batch:,}", f"{found.samples:,}", in_bytes(found.size), saved, processes),
        *(found.torch or "-", found.composer or "-", _verdict(found, wrong)),
    )


def _verdict(checkpoint: Checkpoint, wrong: dict[str, str] | None) -> str:
    if wrong is None:
        return "yes"
    if checkpoint.name in wrong:
        return f"no: {wrong[checkpoint.name]}"
    if checkpoint.checksums.keys() >= checkpoint.files.keys():
        return "yes, every byte is as written"
    return "yes, every byte can be read; there are no checksums to compare with"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        f"{cell:>{width}}" if name in _RIGHT else f"{cell:<{width}}"
        for name, cell, width in zip(_HEAD, row, widths, strict=True)
    ]
    return "  ".join(cells).rstrip()
