"""The sets of shards that a run reads, resolved from its settings."""

from __future__ import annotations

import os
from dataclasses import dataclass

from maws_composer.data.settings import HeldOutData, Source, StreamSource, TrainData


@dataclass(frozen=True)
class Shards:
    """One set of shards.

    Args:
        key: where the configuration names it, such as "data.train.streams.web".
        name: unique within the dataset.
        remote: where the shards are; None: only on this machine.
        local: the user's folder for them or for their cache, if any.
        repeat: how often each sample comes in an epoch, on average.
    """

    key: str
    name: str
    remote: str | None
    local: str | None
    repeat: float = 1.0

    @property
    def address(self) -> str:
        """Where the shards come from."""
        return self.remote or self.local or ""

    @property
    def is_cached(self) -> bool:
        """Whether shards are copied to a cache before they are read."""
        return self.remote is not None

    @property
    def is_there(self) -> bool:
        """False: it is a folder of this machine that does not exist."""
        return "://" in self.address or os.path.exists(self.address)

    @property
    def where(self) -> str:
        """The key that names where the shards come from."""
        return f"{self.key}.{'remote' if self.remote else 'local'}"

    @property
    def section(self) -> str:
        """The section of the configuration that it is part of, such as data.train."""
        return self.key.partition(".streams.")[0]

    def path(self, basename: str) -> str:
        """Address of one of its files."""
        return os.path.join(self.address, basename)


def training_shards(data: TrainData) -> list[Shards]:
    """The streams of the training data; `repeat` of the data multiplies each stream's own. A plugin has none."""
    if data.dataset is not None:
        return []
    if not data.streams:
        return [_shards("data.train", "train", data, data.repeat)]
    return [
        _shards(f"data.train.streams.{name}", name, stream, stream.repeat * data.repeat)
        for name, stream in data.streams.items()
    ]


def evaluation_shards(data: Source, key: str = "data.eval") -> list[Shards]:
    """The one set of shards of the section `key`, which is evaluated on. A plugin has none."""
    if isinstance(data, HeldOutData) and data.dataset is not None:
        return []
    return [_shards(key, key.rpartition(".")[2], data, 1.0)]


def _shards(key: str, name: str, source: Source | StreamSource, repeat: float) -> Shards:
    remote = None if source.remote == source.local else source.remote
    return Shards(key, name, remote, source.local, repeat)
