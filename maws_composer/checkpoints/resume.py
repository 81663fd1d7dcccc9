"""Going on with a run: which checkpoint, and reading it."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
import yaml
from cloudpathlib import CloudPath
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from tqdm import tqdm

from maws_composer.checkpoints.completeness import MARKER, Checkpoint, newest_complete
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
        owes_evaluation: an evaluation was cut off after its last step.
    """

    folder: Path
    samples: int
    owes_evaluation: bool = False


def newest_checkpoint(run_folder: RunFolder) -> ResumePoint | None:
    """The newest complete checkpoint of the run: chosen once for all ranks, downloaded once per node. A collective."""
    checkpoint = on_rank_zero(lambda: _find_newest(run_folder))
    if checkpoint is None:
        return None
    here = run_folder.checkpoints / checkpoint.name
    if "://" in checkpoint.folder:
        once_per_node(lambda: None if _is_copy(here, checkpoint) else _download(checkpoint, here))
    return ResumePoint(here, checkpoint.samples, checkpoint.owes_evaluation)


def _find_newest(run_folder: RunFolder) -> Checkpoint | None:
    """Says which it is, and why newer ones were passed over.

    For a run in object storage a local copy counts too, where one node holds all of it: it may not be uploaded yet.
    """
    places = [run_folder.home / "checkpoints"]
    if run_folder.is_remote and dist.get_world_size() == dist.get_local_world_size():
        places.append(run_folder.checkpoints)
    best: Checkpoint | None = None
    for place in places:
        newest, passed_over = newest_complete(place)
        for broken in passed_over:
            log.warning("passed over %s: %s", broken.folder, broken.reason)
        if newest is not None and (best is None or newest.batch > best.batch):
            best = newest
    if best is None:
        log.info("%s has no complete checkpoint: starting at sample 0", run_folder.url)
    return best


def _is_copy(here: Path, checkpoint: Checkpoint) -> bool:
    """Whether this node still has the checkpoint from before."""
    newest, _ = newest_complete(here.parent)
    return newest is not None and newest.name == checkpoint.name and newest.files == checkpoint.files


def _download(checkpoint: Checkpoint, target: Path) -> None:
    log.info("downloading %s (%.1f MB)", checkpoint.folder, sum(checkpoint.files.values()) / 1e6)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    remote = open_path(checkpoint.folder)
    assert isinstance(remote, CloudPath)
    for name in tqdm([*checkpoint.files, MARKER], desc="downloading", unit="file"):
        (remote / name).download_to(partial / name)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def is_finished(resume_from: ResumePoint, folder: RunFolder, max_samples: int) -> bool:
    """Whether nothing is left to do; an evaluation that was cut off, and not made up for since, is."""
    last = last_step(folder.local / FILE) or {}
    owes = resume_from.owes_evaluation and not any(key.startswith("metrics/") for key in last)
    return resume_from.samples >= max_samples and not owes


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
        _forget_other_callbacks(wanted["state"], saved=set(reader.read_metadata().state_dict_metadata))
        with torch.no_grad():
            dcp.load(wanted, storage_reader=reader, planner=SafePlanner())
        state.load_state_dict({**wanted["state"], "algorithms": {}}, logger, strict=True)


def _forget_other_callbacks(state: dict[str, Any], saved: set[str]) -> None:
    """Callbacks may come and go between starts: only those that the checkpoint knows are asked for.

    Nor those of which it knows something else: a progress bar keeps nothing before its first batch, and much after it.
    """
    state["callbacks"] = {
        name: value
        for name, value in state.get("callbacks", {}).items()
        if flatten_state_dict({"state": {"callbacks": {name: value}}})[0].keys() <= saved
    }
