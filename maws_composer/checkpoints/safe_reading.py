"""Reading sharded checkpoints without running what is in them.

`.metadata` is a pickle, and so are the entries that are not tensors: torch and Composer load both in full, which lets
whoever wrote the file run code. Here the metadata may name nothing but the classes it consists of, entries are read
with `weights_only=True`, and files outside of the checkpoint's folder are not opened. In object storage only those
stretches of the files are read that hold what is asked for.
"""

from __future__ import annotations

import io
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader, LoadPlan, LoadPlanner
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import LoadItemType, ReadItem
from torch.futures import Future

from maws_composer.checkpoints.completeness import RunPath
from maws_composer.checkpoints.ranges import read_range

_CONNECTIONS = 8  # boto3 keeps ten
_METADATA = "torch.distributed.checkpoint.metadata"
_ALLOWED = {
    (_METADATA, "Metadata"),
    (_METADATA, "TensorStorageMetadata"),
    (_METADATA, "BytesStorageMetadata"),
    (_METADATA, "ChunkStorageMetadata"),
    (_METADATA, "TensorProperties"),
    (_METADATA, "MetadataIndex"),
    (_METADATA, "StorageMeta"),
    (_METADATA, "_MEM_FORMAT_ENCODING"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch", "device"),
    ("torch.serialization", "_get_layout"),
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
}


class UnsafeCheckpointError(RuntimeError):
    """A checkpoint that asks for more than tensors and plain values."""


class SafeReader(FileSystemReader):
    """torch's reader of a checkpoint folder, with a restricted unpickler for its metadata.

    Args:
        folder: local, or in object storage; there tensors are read, other entries are not.

    Raises:
        UnsafeCheckpointError: where the metadata names a class that does not belong there, or a file elsewhere.
    """

    def __init__(self, folder: RunPath) -> None:
        super().__init__(folder if isinstance(folder, Path) else folder.name)
        self._folder = folder

    @cached_property
    def _metadata(self) -> Metadata:
        metadata = _RestrictedUnpickler((self._folder / ".metadata").read_bytes(), self._folder).load()
        for info in metadata.storage_data.values():
            if os.path.basename(info.relative_path) != info.relative_path:
                raise UnsafeCheckpointError(f"{self._folder}/.metadata names {info.relative_path!r}, outside of it")
        if getattr(metadata, "storage_meta", None) is None:
            metadata.storage_meta = StorageMeta()
        return metadata

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        self._metadata.storage_meta.load_id = self.load_id  # type: ignore[union-attr]
        return self._metadata

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        if isinstance(self._folder, Path):
            return super().read_data(plan, planner)
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            for item, tensor in zip(plan.items, pool.map(self._request, plan.items), strict=True):
                target = planner.resolve_tensor(item).detach()
                target.copy_(narrow_tensor_by_index(tensor, item.storage_offsets, item.lengths))
                planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _request(self, item: ReadItem) -> torch.Tensor:
        assert item.type == LoadItemType.TENSOR, f"{item.dest_index.fqn} is no tensor"
        info = self.storage_data[item.storage_index]
        data = read_range(self._folder / info.relative_path, info.offset, info.length)
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


class SafePlanner(DefaultLoadPlanner):
    """torch's load planner, reading entries that are not tensors as plain values only."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        try:
            with torch.serialization.safe_globals([timedelta]):  # Composer's time
                torch.load(value, weights_only=True)
        except pickle.UnpicklingError as error:
            name = read_item.dest_index.fqn
            raise UnsafeCheckpointError(f"entry {name} is more than a plain value: {error}") from error
        # What passed names no code, so that torch may now read it in its own way.
        value.seek(0)
        super().load_bytes(read_item, value)


class _RestrictedUnpickler(pickle.Unpickler):
    def __init__(self, data: bytes, folder: RunPath) -> None:
        super().__init__(io.BytesIO(data))
        self._folder = folder

    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if (module, name) in _ALLOWED or is_dtype:
            return super().find_class(module, name)
        raise UnsafeCheckpointError(
            f"{self._folder}/.metadata asks for {module}.{name}, which no checkpoint needs: it was not written by "
            "torch.distributed.checkpoint, or somebody changed it"
        )
