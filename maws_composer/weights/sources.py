"""An encoder's weights at an address, whatever lies there.

    s3://bucket/run, runs/mae                 a run: its newest complete checkpoint
    runs/mae/checkpoints/ep0-ba800            a checkpoint, written by any number of ranks
    exported/, model.safetensors              our exports, or anybody's with timm's names
    mae_pretrain_vit_base.pth, vit_2b14.pt    released weights of MAE, MAWS and MAWS-CLIP

Locally, or in object storage. Only names and shapes are read before a tensor is asked for, then that one alone: never
an optimizer's state. Nothing in a file is run.
"""

from __future__ import annotations

import argparse
import json
import logging
import pickle
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from maws_composer.checkpoints.completeness import MARKER, Checkpoint, RunPath, newest_complete, read_checkpoint
from maws_composer.checkpoints.ranges import open_ranged, read_range
from maws_composer.checkpoints.run_folder import open_path
from maws_composer.checkpoints.weights import SavedModel
from maws_composer.config.problems import ConfigError

log = logging.getLogger(__name__)

# The names of timm's VisionTransformer, which the released weights have too.
FIRST = "patch_embed.proj.weight"
_ENCODER = re.compile(r"cls_token|pos_embed|patch_embed\.proj\.(weight|bias)|blocks\.\d+\..+|norm\.(weight|bias)")
_LONGEST_HEADER = 100_000_000  # of safetensors' own reader


class SourceError(ValueError):
    """There are no weights at an address, or none that can be read."""


@dataclass(frozen=True)
class Weights:
    """Named tensors.

    Attributes:
        address: where they are; of a run, the checkpoint that was chosen.
        shapes: name -> shape.
        read: one tensor, whole, on the CPU.
    """

    address: str
    shapes: Mapping[str, torch.Size]
    read: Callable[[str], Tensor] = field(repr=False)


@dataclass(frozen=True)
class Encoder(Weights):
    """The tensors of a ViT, by timm's names.

    Attributes:
        left: names of the other tensors that lie with them.
    """

    left: list[str]

    @property
    def has_qk_norm(self) -> bool:
        return any(".q_norm." in name for name in self.shapes)


def open_encoder(address: str) -> Encoder:
    """Find the one encoder among the weights at `address`.

    Raises:
        SourceError: it is not readable, incomplete, asks to run code, or has no encoder, or several.
    """
    weights = open_weights(address)
    prefixes = [name.removesuffix(FIRST) for name in weights.shapes if f".{name}".endswith(f".{FIRST}")]
    if not prefixes:
        some = ", ".join(list(weights.shapes)[:4]) or "nothing"
        raise SourceError(f"{weights.address} has no tensor {FIRST}, so no ViT with timm's names; it has {some} ...")
    if len(prefixes) > 1:
        raise SourceError(f"{weights.address} has several encoders: {', '.join(sorted(prefixes))}")
    prefix = prefixes[0]
    inside = [name for name in weights.shapes if name.startswith(prefix) and _ENCODER.fullmatch(name[len(prefix) :])]
    return Encoder(
        address=weights.address,
        shapes={name.removeprefix(prefix): weights.shapes[name] for name in inside},
        read=lambda name: weights.read(prefix + name),
        left=[name for name in weights.shapes if name not in set(inside)],
    )


def open_weights(address: str) -> Weights:
    """Read the names and shapes of what lies at `address`; of a checkpoint, the model's.

    Raises:
        SourceError: see open_encoder.
    """
    with _readable(address):
        path = open_path(address)
        if path.suffix == ".safetensors":
            return _safetensors_file(path)
        if path.suffix in (".pt", ".pth"):
            return _torch_file(path)
        if (path / "model.safetensors").exists():
            return _safetensors_file(path / "model.safetensors")
        checkpoint = find_checkpoint(address)
        model = SavedModel(checkpoint)
        return Weights(str(checkpoint), model.shapes, model.read)


def find_checkpoint(address: str) -> RunPath:
    """The folder of a checkpoint: the address itself, or a run's newest complete one.

    Raises:
        SourceError: there is none.
    """
    with _readable(address):
        path = open_path(address)
        if (path / MARKER).exists() or (path / ".metadata").exists():
            found = read_checkpoint(path)
            if isinstance(found, Checkpoint):
                return path
            raise SourceError(f"{found.folder} is no complete checkpoint: {found.reason}")
        newest, passed_over = newest_complete(path / "checkpoints")
        if newest is None:
            reasons = "".join(f"\n{broken.folder}: {broken.reason}" for broken in passed_over)
            what = "no complete checkpoint" if passed_over else "no run, checkpoint or weights"
            raise SourceError(f"there is {what} at {address}{reasons}")
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

    return Weights(str(path), {name: torch.Size(about["shape"]) for name, about in header.items()}, read)


def _torch_file(path: RunPath) -> Weights:
    """A file of torch.save: a state dict, or one under "model" as the MAE authors' code has it."""
    with open_ranged(path) as file:
        if file.read(2) != b"PK":
            raise SourceError(f"{path} is not in torch's format since 1.6; load it and save it anew")
        file.seek(0)
        # The MAE authors' training script keeps its arguments in a Namespace, which cannot do anything.
        try:
            with FakeTensorMode(), torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(file, weights_only=True)
        except pickle.UnpicklingError as error:
            asked = re.search(r"GLOBAL ([\w.]+)", str(error))
            what = asked[1] if asked else "more than tensors and plain values"
            raise SourceError(f"{path} asks for {what}, which no weights need; it was not run") from error
    state = content.get("model", content) if isinstance(content, dict) else {}
    fakes = {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}

    def read(name: str) -> Tensor:
        fake = fakes[name]
        storage: Any = fake.untyped_storage()
        start = storage._checkpoint_offset + int(fake.storage_offset()) * fake.itemsize
        # not the storage's own size, which torch 2.7 multiplies by the element's twice
        span = 1 + sum((length - 1) * stride for length, stride in zip(fake.shape, fake.stride(), strict=True))
        data = read_range(path, start, span * fake.itemsize)
        return torch.frombuffer(bytearray(data), dtype=fake.dtype).as_strided(fake.shape, fake.stride())

    return Weights(str(path), {name: tensor.shape for name, tensor in fakes.items()}, read)
