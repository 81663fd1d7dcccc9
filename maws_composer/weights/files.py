"""Named tensors at an address, by the names that they have there.

Only names, shapes and dtypes are read before a tensor is asked for, then that one alone: never an optimizer's state.
Nothing in a file is run. Local files, and those in object storage.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from maws_composer.checkpoints.checksums import find_damage
from maws_composer.checkpoints.completeness import MARKER, Checkpoint, RunPath, newest_complete, read_checkpoint
from maws_composer.checkpoints.ranges import open_ranged, read_range
from maws_composer.checkpoints.run_folder import open_path
from maws_composer.checkpoints.weights import SavedModel
from maws_composer.config.problems import ConfigError, nearest_path

log = logging.getLogger(__name__)

AVERAGED = "#ema"  # ends the address of a run, or of a checkpoint, whose moving average is meant
_LONGEST_HEADER = 100_000_000  # of safetensors' own reader
_TORCH_SUFFIXES = (".pt", ".pth", ".bin")
_FILES = (  # what a folder may hold
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_STATE_KEYS = ("model", "state_dict")  # where training scripts put the weights
_SAFETENSORS_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


class SourceError(Exception):
    """There are no weights at an address, or none that can be read."""


@dataclass(frozen=True)
class Weights:
    """Named tensors.

    Attributes:
        address: where they are; of a run, the checkpoint that was chosen.
        file_format: as `maws-composer inspect` says it.
        shapes: name -> shape.
        dtypes: name -> dtype.
        read: one tensor, whole, on the CPU.
        config: what the config.yaml or config.json beside them says.
        beside: names of what else is in the file, such as an optimizer; it is not read.
    """

    address: str
    file_format: str
    shapes: Mapping[str, torch.Size]
    dtypes: Mapping[str, torch.dtype]
    read: Callable[[str], Tensor] = field(repr=False)
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    beside: tuple[str, ...] = ()

    @property
    def place(self) -> RunPath:
        """The file or folder."""
        return open_path(self.address.removesuffix(AVERAGED))

    @property
    def has_qk_norm(self) -> bool:
        return any(".q_norm." in name for name in self.shapes)


def open_weights(address: str) -> Weights:
    """Read the names and shapes of what lies at `address`; of a checkpoint, the model's.

    Raises:
        SourceError: it is not readable, incomplete, or asks to run code.
    """
    with _readable(address):
        path = open_path(address)
        if path.name in _FILES:
            return _folder(path.parent, path.name)
        if path.suffix in (".safetensors", *_TORCH_SUFFIXES):
            return _file(path)
        for name in _FILES:
            if (path / name).exists():
                return _folder(path, name)
        if path.is_file():
            raise SourceError(f"{address} is no file of weights: expected .safetensors, .pt, .pth or .bin")
        return _checkpoint(address)


def _checkpoint(address: str) -> Weights:
    whole, averaged = checkpoint_address(address), address.endswith(AVERAGED)
    folder = open_path(whole.removesuffix(AVERAGED))
    model = SavedModel(folder, averaged)
    file_format = "checkpoint of torch.distributed.checkpoint, sharded" + (", moving average" if averaged else "")
    return Weights(whole, file_format, model.shapes, model.dtypes, _undamaged(folder, model.read), _config(folder))


def _undamaged(folder: RunPath, read: Callable[[str], Tensor]) -> Callable[[str], Tensor]:
    """`read`, but every byte of a local checkpoint is looked at before the first tensor is taken from it.

    Object storage, out of which single tensors are read, compares checksums of its own.
    """
    is_checked = not isinstance(folder, Path)

    def read_undamaged(name: str) -> Tensor:
        nonlocal is_checked
        found = None if is_checked else read_checkpoint(folder)
        if isinstance(found, Checkpoint) and (damage := find_damage(folder, found, found.checksums)):
            raise SourceError(f"{folder}: {damage[0]}; name an older checkpoint of the run")
        is_checked = True
        return read(name)

    return read_undamaged


def checkpoint_address(address: str) -> str:
    """The address of a checkpoint: itself, or of a run that of its newest complete one.

    Raises:
        SourceError: there is none.
    """
    return f"{find_checkpoint(address)}{AVERAGED if address.endswith(AVERAGED) else ''}"


def find_checkpoint(address: str) -> RunPath:
    """The folder of a checkpoint: the address itself, or a run's newest complete one.

    Raises:
        SourceError: there is none.
    """
    with _readable(address):
        path = open_path(address.removesuffix(AVERAGED))
        if (path / MARKER).exists() or (path / ".metadata").exists():
            found = read_checkpoint(path)
            if isinstance(found, Checkpoint):
                return path
            raise SourceError(f"{found.folder} is no complete checkpoint: {found.reason}")
        newest, passed_over = newest_complete(path / "checkpoints")
        if newest is None:
            reasons = "".join(f"\n{broken.folder}: {broken.reason}" for broken in passed_over)
            what = "no complete checkpoint" if passed_over else "no run, checkpoint or weights"
            near = nearest_path(path) if isinstance(path, Path) and not path.exists() else None
            hint = f"; nearest is {near}" if near else ""
            raise SourceError(f"there is {what} at {address}{hint}{reasons}")
        for broken in passed_over:
            log.warning("passed over %s: %s", broken.folder, broken.reason)
        return path / "checkpoints" / newest.name


@contextmanager
def _readable(address: str) -> Iterator[None]:
    try:
        yield
    except SourceError:
        raise
    except ConfigError as error:
        raise SourceError(error.problems[0].message) from error
    except Exception as error:  # each storage library has exceptions of its own
        raise SourceError(f"{address} is not readable: {error}") from error


def _folder(path: RunPath, name: str) -> Weights:
    file = path / name
    if file.suffix == ".json":
        parts = sorted(set(json.loads(file.read_text())["weight_map"].values()))
        if outside := [part for part in parts if part != os.path.basename(part)]:
            raise SourceError(f"{file} names {outside[0]}, outside of its folder")
        return _together(path, [_file(path / part) for part in parts])
    return replace(_file(file), config=_config(path))


def _together(path: RunPath, parts: list[Weights]) -> Weights:
    owner = {name: part for part in parts for name in part.shapes}
    return Weights(
        address=str(path),
        file_format=f"{parts[0].file_format}, {len(parts)} files",
        shapes={name: part.shapes[name] for name, part in owner.items()},
        dtypes={name: part.dtypes[name] for name, part in owner.items()},
        read=lambda name: owner[name].read(name),
        config=_config(path),
    )


def _config(folder: RunPath) -> Mapping[str, Any]:
    """Of a run, of timm, or of Hugging Face, which has two files."""
    found: dict[str, Any] = {}
    for name in ("preprocessor_config.json", "config.json", "config.yaml"):
        if (folder / name).exists():
            content = yaml.safe_load((folder / name).read_text())  # JSON is YAML
            found |= content if isinstance(content, dict) else {}
    return found


def _file(path: RunPath) -> Weights:
    return _safetensors_file(path) if path.suffix == ".safetensors" else _torch_file(path)


def _safetensors_file(path: RunPath) -> Weights:
    header_size = int.from_bytes(read_range(path, 0, 8), "little")
    if header_size > _LONGEST_HEADER:
        raise SourceError(f"{path} is no safetensors file")
    header = json.loads(read_range(path, 8, header_size))
    header.pop("__metadata__", None)
    start = 8 + header_size
    end = start + max((about["data_offsets"][1] for about in header.values()), default=0)
    if path.stat().st_size != end:
        raise SourceError(f"{path} was cut off: it has {path.stat().st_size:,} of {end:,} bytes")

    def read(name: str) -> Tensor:
        first, last = header[name]["data_offsets"]
        # as a file of this tensor only, so that the library judges it
        alone = json.dumps({name: header[name] | {"data_offsets": [0, last - first]}}).encode()
        data = read_range(path, start + first, last - first)
        return safetensors.torch.load(len(alone).to_bytes(8, "little") + alone + data)[name]

    return Weights(
        address=str(path),
        file_format="safetensors",
        shapes={name: torch.Size(about["shape"]) for name, about in header.items()},
        dtypes={name: _SAFETENSORS_DTYPES[about["dtype"]] for name, about in header.items()},
        read=read,
    )


def _torch_file(path: RunPath) -> Weights:
    """A file of torch.save: a state dict, or one under "model" as the MAE authors' code has it."""
    with open_ranged(path) as file:
        if file.read(2) != b"PK":
            raise SourceError(
                f"{path} is in torch's format before 1.6: load it with weights_only=True, and save it anew"
            )
        file.seek(0)
        # The MAE authors' training script keeps its arguments in a Namespace, which cannot do anything.
        try:
            with FakeTensorMode(), torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(file, weights_only=True)
        except pickle.UnpicklingError as error:
            asked = re.search(r"GLOBAL ([\w.]+)", str(error))
            what = asked[1] if asked else "more than tensors and plain values"
            raise SourceError(f"{path} asks for {what}, which no weights need; it was not run") from error
    content = content if isinstance(content, dict) else {}
    inside = [key for key in _STATE_KEYS if isinstance(content.get(key), dict)]
    state = content[inside[0]] if inside else content
    fakes = {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}

    def read(name: str) -> Tensor:
        fake = fakes[name]
        storage: Any = fake.untyped_storage()
        start = storage._checkpoint_offset + int(fake.storage_offset()) * fake.itemsize
        # not the storage's own size, which torch 2.7 multiplies by the element's twice
        span = 1 + sum((length - 1) * stride for length, stride in zip(fake.shape, fake.stride(), strict=True))
        data = read_range(path, start, span * fake.itemsize)
        return torch.frombuffer(bytearray(data), dtype=fake.dtype).as_strided(fake.shape, fake.stride())

    return Weights(
        address=str(path),
        file_format="torch.save",
        shapes={name: tensor.shape for name, tensor in fakes.items()},
        dtypes={name: tensor.dtype for name, tensor in fakes.items()},
        read=read,
        beside=tuple(str(key) for key in content if key not in inside and key not in fakes),
    )
