"""Samples of a shard are those that streaming reads, and what is cut off is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from streaming import MDSWriter
from streaming.base.format.mds.reader import MDSReader

from maws_composer.data.column_reader import ColumnReader
from tests.data.shards import index_of

COLUMNS = {"image": "bytes", "score": "float64", "id": "str", "labels": "ndarray:int32", "pair": "ndarray:int16:2"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("columns")
    with MDSWriter(out=str(folder / "data"), columns=COLUMNS) as writer:
        for number in range(20):
            picture, labels = bytes(range(number)), np.arange(number % 3 + 1, dtype=np.int32)
            pair = np.array([number, -number], np.int16)
            writer.write({"image": picture, "score": number / 7, "id": f"n{number}", "labels": labels, "pair": pair})
    return folder / "data"


ARGUMENTS = (
    "dirname", "split", "column_encodings", "column_names", "column_sizes", "compression", "hashes", "raw_data",
    "samples", "size_limit", "zip_data",
)  # fmt: skip


def readers(folder: Path) -> tuple[ColumnReader, MDSReader]:
    (shard,) = index_of(folder)["shards"]
    theirs = MDSReader.from_json(str(folder), "", shard)
    names = {"key": "id", **{name: name for name in COLUMNS if name != "id"}}
    return ColumnReader(names, **{name: getattr(theirs, name) for name in ARGUMENTS}), theirs


def test_every_column_is_what_streaming_reads(folder: Path) -> None:
    ours, theirs = readers(folder)
    for number in range(20):
        sample, expected = ours[number], theirs[number]
        assert sample.pop("key") == expected.pop("id")
        assert sample.keys() == expected.keys()
        assert all(np.array_equal(sample[name], expected[name]) for name in sample)


@pytest.mark.parametrize("kept", [0, 4, 30, 80, 100])
def test_a_shard_that_is_cut_off_is_an_error(folder: Path, tmp_path: Path, kept: int) -> None:
    (tmp_path / "index.json").write_bytes((folder / "index.json").read_bytes())
    (tmp_path / "shard.00000.mds").write_bytes((folder / "shard.00000.mds").read_bytes()[:kept])
    ours, _ = readers(tmp_path)
    for number in (0, 19):
        with pytest.raises((IndexError, ValueError)):
            ours[number]
    (tmp_path / "shard.00000.mds").unlink()
    with pytest.raises(FileNotFoundError):
        ours[0]
