"""A dataset of the user's own: what a plugin of the kind `dataset` has to be, and what it is found to be.

It is a map-style dataset: `len(dataset)` samples, and `dataset[number]` gives one as {column: value}:

    image      bytes of an image file, or a PIL image
    id         text or a whole number, unique
    labels     a list of class indices
    caption    text

Only the columns that the stage reads are asked for, and always `id`; `data.train.columns` gives them other names. A
`ValueError` says that this sample is a bad one: another takes its place, and it is counted. Anything else that is
raised ends the run. Python's, NumPy's and torch's global generators are the sample's own while it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.distributed as dist
from PIL import Image
from torch import Tensor

from maws_composer.config.build import build_named
from maws_composer.config.problems import ConfigError, Problem
from maws_composer.config.secrecy import mask
from maws_composer.data.columns import CAPTION, ID, IMAGE, LABELS
from maws_composer.data.settings import DatasetSettings
from maws_composer.data.usable import Sample, UnusableSampleError
from maws_composer.frames import traceback_of
from maws_composer.registry import lookup

if TYPE_CHECKING:
    from maws_composer.config.run import Run

_EXPECTED: dict[str, tuple[tuple[type, ...], str]] = {
    IMAGE: ((bytes, Image.Image), "the bytes of an image file, or a PIL image"),
    ID: ((str, int, np.integer), "text or a whole number"),
    LABELS: ((list, tuple, np.ndarray, Tensor), "a list of class indices"),
    CAPTION: ((str,), "text"),
}


class SampleError(RuntimeError):
    """A dataset failed, or gave what is no sample; the message names both."""

    def __init__(self, message: str, column: str | None = None) -> None:
        super().__init__(message)
        self.column = column


@dataclass(frozen=True)
class OwnDataset:
    """A dataset that is there.

    Attributes:
        name: of the plugin.
        origin: its file:line.
        samples: what it made.
        size: how many samples that has.
        fingerprint: what it says of itself; None if it says nothing.
    """

    name: str
    origin: str
    samples: Any
    size: int
    fingerprint: str | None

    def __str__(self) -> str:
        return f"the dataset {self.name} ({self.origin})"

    def read(self, number: int, columns: Mapping[str, str]) -> Sample:
        """The wanted columns of a sample, under our names.

        Args:
            number: below `size`.
            columns: our name -> the dataset's.

        Raises:
            UnusableSampleError: the dataset says that it is bad.
            SampleError: the dataset failed, or a column is missing or of another type.
        """
        try:
            raw = self.samples[number]
        except ValueError as error:
            raise UnusableSampleError("sample", f"{number} cannot be read: {error}") from error
        except Exception as error:
            raise SampleError(f"sample {number} of {self} cannot be read:\n{traceback_of(error)}") from error
        if not isinstance(raw, Mapping):
            raise SampleError(f"sample {number} of {self} is a {type(raw).__name__}; expected {{column: value}}")
        return {ours: self._column(number, raw, ours, theirs) for ours, theirs in columns.items()}

    def _column(self, number: int, raw: Mapping[str, Any], ours: str, theirs: str) -> Any:
        if theirs not in raw:
            there = ", ".join(map(str, raw)) or "nothing"
            raise SampleError(f"sample {number} of {self} has no column {theirs}; it has {there}", ours)
        value, (types, expected) = raw[theirs], _EXPECTED[ours]
        if not isinstance(value, types):
            what = f"{theirs} is a {type(value).__name__}"
            raise SampleError(f"sample {number} of {self}: {what}; expected {expected}", ours)
        if ours == LABELS and _is_empty(raw[theirs]):
            return np.zeros(0, np.int64)  # of an empty list nobody knows the type
        return value


def _is_empty(labels: Any) -> bool:
    return (tuple(labels.shape) if hasattr(labels, "shape") else (len(labels),)) == (0,)


def open_own(settings: DatasetSettings, key: str, run: Run) -> OwnDataset:
    """Make the dataset that a section of the run names.

    Args:
        settings: its name and arguments.
        key: of the section, such as "data.train.dataset".
        run: handed to the plugin if it asks for it.

    Raises:
        ConfigError: it cannot be made, or is no map-style dataset with samples.
    """
    entry = lookup("dataset", settings.name)
    called = f"the dataset {settings.name} ({entry.origin})"
    try:
        samples = build_named("dataset", settings, settings.name, run)
        if reason := _misfit(samples):
            raise ConfigError([Problem(key, f"{called} {reason}")])
        size, said = len(samples), samples.fingerprint() if hasattr(samples, "fingerprint") else None
    except ConfigError as error:
        raise ConfigError([replace(problem, path=key) for problem in error.problems]) from error
    except Exception as error:
        raise ConfigError([Problem(key, f"{called} cannot be made:\n{traceback_of(error)}")]) from error
    if not size:
        raise ConfigError([Problem(key, f"{called} is empty; it was made with {_arguments(settings)}")])
    if not isinstance(said, str | None):
        raise ConfigError([Problem(key, f"{called}: fingerprint() returned {said!r:.80}; expected text")])
    return OwnDataset(settings.name, entry.origin, samples, size, said)


def open_together(settings: DatasetSettings, key: str, run: Run) -> OwnDataset:
    """`open_own` on every rank; a collective.

    Raises:
        ConfigError: on every rank; see `open_own`, or they did not find the same.
    """
    problems: list[Problem] = []
    own = None
    try:
        own = open_own(settings, key, run)
    except ConfigError as error:
        problems = error.problems
    found: list[Any] = [((own.size, own.fingerprint) if own else None, problems)]
    if dist.is_available() and dist.is_initialized():
        mine, found = found[0], [None] * dist.get_world_size()
        dist.all_gather_object(found, mine)
    if wrong := list(dict.fromkeys(problem for _, problems in found for problem in problems)):
        raise ConfigError(wrong)
    seen = [about for about, _ in found]
    if other := next((rank for rank, about in enumerate(seen) if about != seen[0]), None):
        told = f"the dataset {settings.name} is {_about(*seen[0])} on rank 0 and {_about(*seen[other])} on rank {other}"
        raise ConfigError([Problem(key, f"{told}; every rank has to find the same samples")])
    assert own is not None
    return own


def _arguments(settings: DatasetSettings) -> str:
    """For people; without credentials."""
    given = {field.name: getattr(settings, field.name) for field in fields(settings) if field.name != "name"}
    return ", ".join(f"{name}: {value}" for name, value in mask(given).items()) or "no arguments"


def _misfit(samples: Any) -> str | None:
    lacking = [name for name in ("__len__", "__getitem__") if not hasattr(samples, name)]
    if not lacking:
        return None
    made = f"made a {type(samples).__name__}, which has no {' and no '.join(lacking)}"
    return f"{made}; expected a map-style dataset: __len__, and __getitem__(number) -> {{column: value}}"


def _about(size: int, fingerprint: str | None) -> str:
    return f"{size:,} samples" + ("" if fingerprint is None else f" of fingerprint {fingerprint!r:.80}")
