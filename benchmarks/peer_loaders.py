"""Loaders as others train with, each with torchvision's transforms on Pillow's pictures."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image
from streaming import StreamingDataLoader, StreamingDataset
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import (
    Compose,
    InterpolationMode,
    PILToTensor,
    RandomHorizontalFlip,
    RandomResizedCrop,
)

BATCH = 64
TRANSFORM = Compose(
    [
        RandomResizedCrop(224, (0.2, 1.0), interpolation=InterpolationMode.BICUBIC),
        RandomHorizontalFlip(),
        PILToTensor(),
    ]
)


def _pixels(image: bytes) -> Tensor:
    return TRANSFORM(Image.open(io.BytesIO(image)).convert("RGB"))


class _Streamed(StreamingDataset):
    def __getitem__(self, at: int) -> Tensor:
        return _pixels(super().__getitem__(at)["image"])


def plain_streaming(folder: Path, workers: int, remote: str | None = None) -> Iterable[Any]:
    place = {"remote": remote, "local": os.environ["SCRATCH"]} if remote else {"local": str(folder / "mds")}
    dataset = _Streamed(**place, shuffle=True, batch_size=BATCH, num_canonical_nodes=1, shuffle_block_size=256)
    return StreamingDataLoader(dataset, batch_size=BATCH, num_workers=workers, drop_last=True)


class _Ids(StreamingDataset):
    def __getitem__(self, at: int) -> dict[str, str]:
        return {"id": super().__getitem__(at)["id"]}


def plain_streaming_ids(folder: Path, workers: int) -> Iterable[Any]:
    """Samples are read whole, and only their ids go on."""
    dataset = _Ids(local=str(folder / "mds"), shuffle=True, batch_size=BATCH, num_canonical_nodes=1)
    return StreamingDataLoader(dataset, batch_size=BATCH, num_workers=workers, drop_last=True)


def image_folder(folder: Path, workers: int) -> Iterable[Any]:
    dataset = ImageFolder(str(folder / "files"), TRANSFORM)
    return DataLoader(dataset, BATCH, shuffle=True, num_workers=workers, drop_last=True)


def web_dataset(folder: Path, workers: int) -> Iterable[Any]:
    import webdataset

    dataset = webdataset.WebDataset(str(folder / "pictures.tar"), shardshuffle=False, empty_check=False)
    dataset = dataset.shuffle(256).to_tuple("jpg").map_tuple(_pixels)
    return DataLoader(dataset, BATCH, num_workers=workers, drop_last=True)


def lit_data(folder: Path, workers: int) -> Iterable[Any]:
    import litdata

    class Optimized(litdata.StreamingDataset):
        def __getitem__(self, at: Any) -> Tensor:
            return _pixels(super().__getitem__(at)["image"])

    dataset = Optimized(str(folder / "litdata"), shuffle=True, drop_last=True)
    return litdata.StreamingDataLoader(dataset, batch_size=BATCH, num_workers=workers, drop_last=True)


def write_litdata(folder: Path, pictures: Iterable[tuple[str, bytes]]) -> None:
    from litdata.streaming.cache import Cache

    cache = Cache(str(folder), chunk_bytes="16MB")
    for number, (_, data) in enumerate(pictures):
        cache[number] = {"image": data}
    cache.done()
    cache.merge()
