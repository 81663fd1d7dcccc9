"""Loaders end to end: from files to batches of 224 x 224 crops, ours against those that others train with.

    python -m benchmarks.loader [--pictures 512] [--rounds 2] [--workers 1]

Each route reads the same JPEGs, in the layout that it is made for, and gives batches of random crops, mirrored every
second time; all routes in turn, several rounds. A peer that is not installed is left out, by name (WebDataset, LitData:
no dependencies of ours; `PYTHONPATH` may lead to them).

Printed: images per second of CPU time, of the rank and its workers together, between the second batch and the last:
what a core gives to a loader, whatever else the machine does. The first line of each block is decoding and cropping
alone, in a loop; "over decoding" is what a route's loader takes beyond the same decoder's loop. Then raw reading: our
loader without decoding, one process and two side by side.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice, product
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import psutil
import torch
from torch import Tensor

from benchmarks import peer_loaders
from benchmarks.pictures import jpegs, repeated, write_files, write_mds, write_tar
from maws_composer.config.run import Run
from maws_composer.data import loader as ours
from maws_composer.data.decode import decode
from maws_composer.data.fast_jpeg import open_jpeg
from maws_composer.data.settings import Data, TrainData
from maws_composer.data.transforms import RandomCropAndFlip
from maws_composer.parallel.settings import Speed
from tests.s3_server import S3Server, rclone

BATCH = 64
DISTINCT = 48  # pictures; the files' number is --pictures
SIZES: Mapping[str, tuple[int, int] | None] = {"500 x 375": None, "pre-resized, 341 x 256": (341, 256)}
CROP = RandomCropAndFlip(seed=0, size=224, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3), flip=True)

Loader = Iterable[Any]
Route = Callable[[Path, int], Loader]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    routes = {name: route for name, route in ROUTES.items() if _is_there(name)}
    for name, resized_to in SIZES.items():
        with tempfile.TemporaryDirectory() as folder, _storage(Path(folder) / "s3") as bucket:
            pictures = jpegs(DISTINCT, (500, 375), resized_to)
            print(f"{name}, {sum(map(len, pictures)) / DISTINCT / 1e3:.0f} kB a picture")
            _write(Path(folder), bucket, pictures, options.pictures)
            _compare(Path(folder), pictures, routes, options)
    with tempfile.TemporaryDirectory() as folder:
        _raw_reading(Path(folder), options.pictures, options.rounds)


def _is_there(route: str) -> bool:
    module = {"WebDataset": "webdataset", "LitData": "litdata"}.get(route)
    if module is not None and importlib.util.find_spec(module) is None:
        print(f"{route} is left out: it is not installed")
        return False
    if "S3" in route and rclone() is None:
        print(f"{route} is left out: it needs rclone")
        return False
    return True


@contextmanager
def _storage(root: Path) -> Iterator[Path | None]:
    """A bucket on a loopback S3 server, and the environment that leads to it."""
    if rclone() is None:
        yield None
        return
    with S3Server(root) as server, mock.patch.dict(os.environ, server.environment):
        yield server.bucket("pictures")


def _write(folder: Path, bucket: Path | None, pictures: Sequence[bytes], count: int) -> None:
    write_mds(folder / "mds", pictures, count)
    write_files(folder / "files", pictures, count)
    write_tar(folder / "pictures.tar", pictures, count)
    if bucket is not None:
        shutil.copytree(folder / "mds", bucket / "mds")
    if importlib.util.find_spec("litdata") is not None:
        peer_loaders.write_litdata(folder / "litdata", repeated(pictures, count))


def _compare(folder: Path, pictures: Sequence[bytes], routes: Mapping[str, Route], options: argparse.Namespace) -> None:
    rates: dict[str, list[float]] = {name: [] for name in (*LOOPS, *routes)}
    for number in range(options.rounds):
        for name, decoder in LOOPS.items():
            rates[name].append(_loop(decoder, pictures, options.pictures))
        for name, route in routes.items():
            scratch = folder / f"scratch-{number}-{name.replace(' ', '-')}"
            with mock.patch.dict(os.environ, {"SCRATCH": str(scratch)}):
                rates[name].append(_images_per_cpu_second(route(folder, options.workers)))
    plain = rates["plain streaming"]
    for name, found in rates.items():
        ratio = median(each / theirs for each, theirs in zip(found, plain, strict=True))
        loop = next((rates[loop] for loop in LOOPS if loop.split(",")[-1] in name and loop != name), None)
        over = f"{median(a / b for a, b in zip(loop, found, strict=True)) - 1:6.0%} over decoding" if loop else ""
        print(f"  {name:<28} {median(found):7,.0f} images per CPU second  {ratio:5.2f} x plain streaming  {over}")


def _loop(decoder: Callable[[bytes, int], Any], pictures: Sequence[bytes], count: int) -> float:
    began = time.process_time()
    for number in range(count):
        CROP(decoder(pictures[number % len(pictures)], 10**9), 0, number)
    return count / (time.process_time() - began)


def _images_per_cpu_second(loader: Loader) -> float:
    batches = iter(loader)
    for batch in islice(batches, 2):
        _images(batch)
    began, count = _cpu_seconds(), 0
    for batch in batches:
        count += len(_images(batch))
        took = _cpu_seconds() - began  # before the workers end, whose time would be gone
    _end_workers(loader)
    return count / took


def _images(batch: Any) -> Tensor:
    images = batch["image"] if isinstance(batch, dict) else batch if isinstance(batch, Tensor) else batch[0]
    assert images.dtype == torch.uint8 and images.shape[1:] == (3, 224, 224)
    return images


def _cpu_seconds() -> float:
    """Of this process and those that it started."""
    here = psutil.Process()
    times = [each.cpu_times() for each in (here, *here.children(recursive=True)) if "rclone" not in each.name()]
    return sum(each.user + each.system for each in times)


def _ours(decoder: str, remote: bool, folder: Path, workers: int) -> Loader:
    place = {"remote": "s3://pictures/mds"} if remote else {"local": str(folder / "mds")}
    return ours.build_train_loader(_run(place, workers, decoder)).dataloader


def _run(place: Mapping[str, Any], workers: int, decoder: Any) -> Run:
    return Run(
        stage="mae",
        model={"image_size": 224},
        data=Data(train=TrainData(**place, decode=decoder, num_canonical_nodes=1, shuffle_block_size=256)),
        global_train_batch_size=BATCH,
        max_duration="1000sp",
        save_folder="runs/loader",
        speed=Speed(workers=workers, scratch_folder=os.environ["SCRATCH"]),
    )


def _raw_reading(folder: Path, count: int, rounds: int) -> None:
    """No decoding: what is left is MDS, the order, and a sample's way to a batch."""
    write_mds(folder / "mds", jpegs(8, (500, 375)), 16 * count)
    nothing = torch.zeros(1, dtype=torch.uint8)
    rates: dict[tuple[str, int], list[tuple[float, float]]] = {}
    with (
        mock.patch.object(ours, "_decoder", lambda data: lambda image, limit: image),
        mock.patch.object(ours, "_train_transform", lambda run: lambda image, epoch, position: nothing),
    ):
        for number in range(rounds):
            for (name, route), workers in product(RAW.items(), (0, 1, 2)):
                with mock.patch.dict(os.environ, {"SCRATCH": str(folder / f"{number}-{name}-{workers}")}):
                    rates.setdefault((name, workers), []).append(_samples_per_second(route(folder, workers)))
    for (name, workers), found in rates.items():
        cpu, clock = (median(part) for part in zip(*found, strict=True))
        where = f"{workers} loader processes" if workers else "the rank's own process"
        print(f"raw reading, {name:<15} {where:<22} {cpu:7,.0f} samples per CPU second, {clock:7,.0f} by the clock")


def _samples_per_second(loader: Loader) -> tuple[float, float]:
    """Of CPU time, and by the clock."""
    batches = iter(loader)
    next(batches)
    cpu, clock, count = _cpu_seconds(), time.perf_counter(), 0
    for batch in batches:
        count += len(batch["id"])
        took = _cpu_seconds() - cpu, time.perf_counter() - clock
    _end_workers(loader)
    return count / took[0], count / took[1]


def _end_workers(loader: Loader) -> None:
    """Now, rather than when the garbage is collected."""
    iterator: Any = getattr(loader, "_iterator", None)
    if hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()


RAW: dict[str, Route] = {
    "ours": lambda folder, workers: _ours("exact", False, folder, workers),
    "plain streaming": peer_loaders.plain_streaming_ids,
}
LOOPS = {"decoding alone, exact": decode, "decoding alone, fast": open_jpeg}
ROUTES: dict[str, Route] = {
    "ours, exact": partial(_ours, "exact", False),
    "ours, fast": partial(_ours, "fast", False),
    "ours from S3, fast": partial(_ours, "fast", True),
    "plain streaming": peer_loaders.plain_streaming,
    "plain streaming from S3": partial(peer_loaders.plain_streaming, remote="s3://pictures/mds"),
    "ImageFolder": peer_loaders.image_folder,
    "WebDataset": peer_loaders.web_dataset,
    "LitData": peer_loaders.lit_data,
}

if __name__ == "__main__":
    main()
