"""From a sample's number to its columns, without anything in memory for shards that are not read."""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from maws_composer.data.column_reader import ColumnReader

if TYPE_CHECKING:
    from maws_composer.data.guards import DataStream

_KEPT = 4096  # readers of a process; of 1.5 kB each


class BisectingIndex:
    """Sample id -> (shard, index in it) in memory of the number of shards; streaming's takes 8 bytes per sample."""

    def __init__(self, shard_sizes: NDArray[np.int64]) -> None:
        self._ends = array("q", np.cumsum(shard_sizes).tobytes())

    def __getitem__(self, sample: int) -> tuple[int, int]:
        if not 0 <= sample < self._ends[-1]:
            raise IndexError(f"there is no sample {sample}")
        shard = bisect.bisect_right(self._ends, sample)
        return shard, int(sample) - (self._ends[shard - 1] if shard else 0)

    def shards(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """The shard of each sample."""
        return np.searchsorted(np.frombuffer(self._ends, np.int64), samples, "right")


class ShardSize:
    """All that streaming asks of a shard while it builds its dataset."""

    __slots__ = ("bytes", "samples")

    def __init__(self, samples: int, size: int) -> None:
        self.samples = samples
        self.bytes = size

    def __len__(self) -> int:
        return self.samples

    def get_max_size(self) -> int:
        return self.bytes


class Readers:
    """Readers of all shards of some streams, made when they are asked for; the latest are kept."""

    def __init__(self, streams: Sequence[DataStream]) -> None:
        self._streams = streams
        self._ends = np.cumsum([len(stream.index.shards) for stream in streams]).tolist()
        self._made: dict[int, ColumnReader] = {}

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, shard: int) -> ColumnReader:
        reader = self._made.get(shard)
        if reader is None:
            stream = bisect.bisect_right(self._ends, shard)
            number = shard - (self._ends[stream - 1] if stream else 0)
            reader = self._streams[stream].reader(self._streams[stream].index.shards[number])
            if len(self._made) >= _KEPT:
                self._made.clear()
            self._made[shard] = reader
        return reader
