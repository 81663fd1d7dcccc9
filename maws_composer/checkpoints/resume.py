"""Going on with a run: which checkpoint, and reading it."""

from __future__ import annotations

import heapq
import logging
import shutil
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
import yaml
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from tqdm import tqdm

from maws_composer.checkpoints.checksums import checksum, find_damage_together
from maws_composer.checkpoints.completeness import (
    MARKER,
    Checkpoint,
    PassedOver,
    in_bytes,
    read_checkpoint,
    read_newest_first,
)
from maws_composer.checkpoints.run_folder import RunFolder, open_path
from maws_composer.checkpoints.safe_reading import SafePlanner, SafeReader
from maws_composer.config.check import show
from maws_composer.config.compare import changed_keys
from maws_composer.config.compose import lookup_path
from maws_composer.config.load import LoadedRun
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.parallel.agree import on_rank_zero, once_per_node
from maws_composer.reporting.metrics_file import FILE, last_step

log = logging.getLogger(__name__)

# Whatever is random about a sample is a function of (seed, epoch, position), so that generators' states carry nothing;
# run names and algorithms' representations (which Composer would evaluate) belong to the new process.
_NOT_RESTORED = ("run_name", "algorithms", "integrations", "metadata")


@dataclass(frozen=True)
class ResumePoint:
    """A complete checkpoint on this node.

    Attributes:
        folder: where it lies.
        samples: how many the run had seen.
        owes: see `Checkpoint`.
    """

    folder: Path
    samples: int
    owes: tuple[str, ...] = ()


def newest_checkpoint(run_folder: RunFolder) -> ResumePoint | None:
    """The newest checkpoint of the run that is complete, and whole to the last byte. A collective.

    Chosen once for all ranks, downloaded once per node; reading it is shared out. What is passed over stays, and is
    named in the log with the reason.

    Raises:
        StorageError: object storage was away for too long.
    """
    candidates = _newest_first(run_folder) if dist.get_global_rank() == 0 else iter(())
    while (checkpoint := on_rank_zero(lambda: next(candidates, None))) is not None:
        here = run_folder.checkpoints / checkpoint.name
        bring_or_check = _bring if "://" in checkpoint.folder else _check
        damage = bring_or_check(checkpoint, here, run_folder)
        if not damage:
            _say_versions(checkpoint)
            return ResumePoint(here, checkpoint.samples, checkpoint.owes)
        if dist.get_global_rank() == 0:
            log.warning("passed over %s: %s", checkpoint.folder, "; ".join(damage))
    log.info("%s has no complete checkpoint: starting at sample 0", run_folder.url)
    return None


def _newest_first(run_folder: RunFolder) -> Iterator[Checkpoint]:
    """The complete ones; says why others were passed over."""
    seen: set[str] = set()
    while (found := run_folder.insist(lambda: _newest_but(run_folder, seen), "checkpoints")) is not None:
        seen.add(found.folder)
        if isinstance(found, Checkpoint):
            yield found
        else:
            log.warning("passed over %s: %s", found.folder, found.reason)


def _newest_but(run_folder: RunFolder, seen: Collection[str]) -> Checkpoint | PassedOver | None:
    """The newest that has not been looked at.

    For a run in object storage a local copy counts too, where one node holds all of it: it may not be uploaded yet.
    """
    places = [run_folder.home / "checkpoints"]
    if run_folder.is_remote and dist.get_world_size() == dist.get_local_world_size():
        places.append(run_folder.checkpoints)
    newest_first = heapq.merge(*map(read_newest_first, places), key=lambda found: -found.batch)
    return next((found for found in newest_first if found.folder not in seen), None)


def _say_versions(checkpoint: Checkpoint) -> None:
    """Results across versions of libraries agree as far as these libraries do."""
    versions = {"torch": (checkpoint.torch, version("torch")), "composer": (checkpoint.composer, version("mosaicml"))}
    changed = [f"{name} {was} (now {now})" for name, (was, now) in versions.items() if was not in (None, now)]
    if changed:
        log.info("%s was saved with %s: losses may differ in their last digits", checkpoint.name, ", ".join(changed))


def _check(checkpoint: Checkpoint, here: Path, run_folder: RunFolder) -> list[str]:
    return find_damage_together(here, checkpoint, is_shared=not run_folder.is_remote)


def _bring(checkpoint: Checkpoint, here: Path, run_folder: RunFolder) -> list[str]:
    """Download what this node has not from before, or has damaged; returns what is damaged all the same."""
    once_per_node(lambda: None if _is_copy(here, checkpoint) else _download(checkpoint, here, run_folder))
    damage = find_damage_together(here, checkpoint, is_shared=False)
    if damage:
        if dist.get_local_rank() == 0:
            log.warning("downloading %s again: %s", checkpoint.name, "; ".join(damage))
        once_per_node(lambda: _download(checkpoint, here, run_folder))
        damage = find_damage_together(here, checkpoint, is_shared=False)
    return damage


def _is_copy(here: Path, checkpoint: Checkpoint) -> bool:
    """Whether this node still has the checkpoint from before."""
    found = read_checkpoint(here)
    return isinstance(found, Checkpoint) and (found.files, found.checksums) == (checkpoint.files, checkpoint.checksums)


def _download(checkpoint: Checkpoint, target: Path, run_folder: RunFolder) -> None:
    """What an earlier start that was cut off has brought already is not fetched again."""
    log.info("downloading %s (%s)", checkpoint.folder, in_bytes(checkpoint.size))
    unfinished = target.with_name(target.name + ".partial")
    unfinished.mkdir(parents=True, exist_ok=True)
    for path in unfinished.iterdir():
        if not _is_whole(path, checkpoint):
            path.unlink()
    remote = open_path(checkpoint.folder)
    assert not isinstance(remote, Path)
    for name in tqdm([*checkpoint.files, MARKER], desc="downloading", unit="file"):
        file = unfinished / name
        if not file.exists():
            run_folder.insist(partial((remote / name).download_to, file), f"checkpoints/{checkpoint.name}/{name}")
    shutil.rmtree(target, ignore_errors=True)
    unfinished.rename(target)


def _is_whole(path: Path, checkpoint: Checkpoint) -> bool:
    """Whether it is one of a checkpoint's files, for certain: one without a checksum may be of another of its name."""
    name = path.name
    return path.stat().st_size == checkpoint.files.get(name) and checksum(path) == checkpoint.checksums.get(name)


def is_finished(resume_from: ResumePoint, folder: RunFolder, max_samples: int) -> bool:
    """Whether nothing is left to do; an evaluation that was cut off, and not made up for since, is. On rank 0."""
    last = last_step(folder.local / FILE) or {}
    made_up = all(any(key.startswith(owed) for key in last) for owed in resume_from.owes)
    return resume_from.samples >= max_samples and made_up


def require_same_results(resume_from: ResumePoint, loaded: LoadedRun) -> None:
    """Compare the configuration kept in a checkpoint with today's.

    Raises:
        ConfigError: naming each key that affects results and differs, unless `allow_changed_config` is set.
    """
    before = yaml.safe_load((resume_from.folder / "config.yaml").read_text())
    changed = changed_keys(before, loaded.resolved)
    if not changed:
        return
    if loaded.run.allow_changed_config:
        log.warning("going on although %s changed since %s", ", ".join(changed), resume_from.folder.name)
        return
    raise ConfigError(loaded.locate(_change(key, before, resume_from, loaded) for key in changed))


def _change(key: str, before: dict[str, Any], resume_from: ResumePoint, loaded: LoadedRun) -> Problem:
    was, now = (show(lookup_path(config, key.split("."))) for config in (before, loaded.resolved))
    advice = "set it back, or allow_changed_config=true to go on all the same"
    return Problem(key, f"was {was} when {resume_from.folder.name} was saved, is now {now}; {advice}")


class Resume(Callback):
    """Loads a checkpoint at the moment at which Composer would, through the restricted reader.

    Composer's own `load_path` unpickles whatever the folder holds, and evaluates the names of algorithms found in it.
    """

    def __init__(self, resume_from: ResumePoint) -> None:
        self._folder = resume_from.folder

    def before_load(self, state: State, logger: Logger) -> None:
        reader = SafeReader(self._folder)
        wanted = {"state": {key: value for key, value in state.state_dict().items() if key not in _NOT_RESTORED}}
        saved = set(reader.read_metadata().state_dict_metadata)
        _forget_other_callbacks(wanted["state"], saved)
        _forget_newer_settings(wanted["state"], saved)
        with torch.no_grad():
            dcp.load(wanted, storage_reader=reader, planner=SafePlanner())
        with warnings.catch_warnings():
            for algorithm in state.algorithms:  # see _NOT_RESTORED
                warnings.filterwarnings("ignore", f"{type(algorithm).__qualname__} is not in the state_dict")
            state.load_state_dict({**wanted["state"], "algorithms": {}}, logger, strict=True)


def _forget_newer_settings(state: dict[str, Any], saved: set[str]) -> None:
    """What determines the order of samples now, and had no name yet when the checkpoint was saved."""
    order = (state.get("dataset_state", {}).get("train") or {}).get("order", {})
    for name, value in list(order.items()):
        if not flatten_state_dict({"state": {"dataset_state": {"train": {"order": {name: value}}}}})[0].keys() <= saved:
            del order[name]


def _forget_other_callbacks(state: dict[str, Any], saved: set[str]) -> None:
    """Callbacks may come and go between starts: only those that the checkpoint knows are asked for.

    Nor those of which it knows something else: a progress bar keeps nothing before its first batch, and much after it.
    """
    state["callbacks"] = {
        name: value
        for name, value in state.get("callbacks", {}).items()
        if flatten_state_dict({"state": {"callbacks": {name: value}}})[0].keys() <= saved
    }
