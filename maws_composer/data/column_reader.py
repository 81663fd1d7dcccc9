"""Samples out of an MDS shard on this machine."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from typing import Any

from streaming.base.format.mds.encodings import mds_decode
from streaming.base.format.mds.reader import MDSReader

from maws_composer.data.columns import CAPTION, IMAGE


class ColumnReader(MDSReader):
    """Reads the wanted columns of a shard, under our names; image and caption as their bytes, which may be broken."""

    def __init__(self, columns: Mapping[str, str], **shard: Any) -> None:
        super().__init__(**shard)
        self._columns = {theirs: ours for ours, theirs in columns.items()}
        self._path = os.path.join(self.dirname, self.split, self.raw_data.basename)
        self._fixed_sizes: list[int] = [size or 0 for size in self.column_sizes]
        self._variable = [i for i, size in enumerate(self.column_sizes) if not size]
        self._sizes = struct.Struct(f"<{len(self._variable)}I")

    def get_sample_data(self, idx: int) -> bytes:
        """A sample's bytes, by two reads at their places: Python's file objects take twice as long.

        Raises:
            FileNotFoundError: the shard is not here, or not any more.
            IndexError: the shard ends before the sample does.
        """
        file = os.open(self._path, os.O_RDONLY)  # each time: a shard that is evicted has to be missed
        try:
            place = os.pread(file, 8, 4 * (1 + idx))
            begin, end = struct.unpack("<2I", place) if len(place) == 8 else (0, 0)
            data = os.pread(file, max(end - begin, 0), begin)
        finally:
            os.close(file)
        if not data or len(data) < end - begin:
            raise IndexError(f"{self.raw_data.basename} ends before sample {idx} does")
        return data

    def decode_sample(self, data: bytes) -> dict[str, Any]:
        if len(data) < self._sizes.size:
            raise ValueError("a sample of it is cut off")
        sizes = self._fixed_sizes.copy()
        for i, size in zip(self._variable, self._sizes.unpack_from(data), strict=True):
            sizes[i] = size
        sample: dict[str, Any] = {}
        begin = self._sizes.size
        for name, encoding, size in zip(self.column_names, self.column_encodings, sizes, strict=True):
            if ours := self._columns.get(name):
                value = data[begin : begin + size]
                sample[ours] = value if ours in (IMAGE, CAPTION) else mds_decode(encoding, value)
            begin += size
        return sample
