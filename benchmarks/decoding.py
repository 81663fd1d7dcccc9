"""Decoding and cropping, one thread: our routes against Pillow by itself and torchvision's decoder.

    python -m benchmarks.decoding

A photograph that comes with matplotlib, as JPEGs of three sizes; RandomResizedCrop(224, 0.2-1) of each, all routes in
turn, several rounds. Printed: images per second of CPU time in the best round, and the median over the rounds of the
ratio to Pillow. Not by the clock, which on a busy machine says nothing of a core. Of `decode: gpu`: what loader workers
have to do; and what is left for a GPU, in batches of 256, by the clock, where there is one.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import matplotlib
import torch
from PIL import Image
from torchvision.io import decode_jpeg
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import hflip, pil_to_tensor, resized_crop

from maws_composer.data.decode import decode
from maws_composer.data.device_decoding import DeviceDecoder
from maws_composer.data.encoded import CropLater, open_encoded, pack
from maws_composer.data.fast_jpeg import open_jpeg
from maws_composer.data.transforms import RandomCropAndFlip

SIZES = {"500 x 375": (500, 375), "2000 x 1500": (2000, 1500), "341 x 256, pre-resized": (341, 256)}
CROP = RandomCropAndFlip(seed=0, size=224, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3), flip=True)
LIMIT = 10**9
BATCH = 256  # of `decode: gpu`
ON_DEVICE = "ours, decode: gpu, GPU"

Route = Callable[[bytes, int], object]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of CPU time, of a route in a round")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name, size in SIZES.items():
        data = _photograph(size)
        print(f"{name}, {len(data) / 1e3:.0f} kB")
        speeds: dict[str, list[float]] = {route: [] for route in ROUTES}
        for _ in range(options.rounds):
            for route, crop in ROUTES.items():
                speeds[route].append(_images_per_second(crop, data, options.seconds))
        for route, found in speeds.items():
            ratio = median(ours / theirs for ours, theirs in zip(found, speeds["Pillow"], strict=True))
            print(f"  {route:<26} {max(found):8,.0f} images per CPU second  {ratio:5.2f}")
        if torch.cuda.is_available():
            speed = max(_on_device_per_second(data, options.seconds) for _ in range(options.rounds))
            print(f"  {ON_DEVICE:<26} {speed:8,.0f} images per second")
        else:
            print(f"  {ON_DEVICE:<26} left out: no GPU")


def _photograph(size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    with Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg") as image:
        image.resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=90)
    return file.getvalue()


def _images_per_second(crop: Route, data: bytes, seconds: float) -> float:
    begin, count = time.process_time(), 0
    while (passed := time.process_time() - begin) < seconds:
        crop(data, count)
        count += 1
    return count / passed


def _on_device_per_second(data: bytes, seconds: float, device: str = "cuda") -> float:
    """Of batches as they are in the rank's memory."""
    crops = [[CropLater(CROP)(open_encoded(data, LIMIT), 0, position)] for position in range(BATCH)]
    batch, decoder = pack(crops)._asdict(), DeviceDecoder(CROP.size, LIMIT, torch.device(device))
    decoder(batch)["image"].cpu()  # nvJPEG sets itself up
    begin, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - begin) < seconds:
        decoder(batch)["image"][-1].cpu()  # waits for it
        count += BATCH
    return count / passed


def _pillow(data: bytes, position: int) -> object:
    """What most training code does: torchvision's transforms on a picture of Pillow's."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    left, top, right, bottom = CROP.box(image.size, 0, position)
    square = resized_crop(image, top, left, bottom - top, right - left, [224, 224], InterpolationMode.BICUBIC)
    return pil_to_tensor(hflip(square) if position % 2 else square)


def _torchvision(data: bytes, position: int) -> object:
    image = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    left, top, right, bottom = CROP.box((image.shape[2], image.shape[1]), 0, position)
    square = resized_crop(
        image, top, left, bottom - top, right - left, [224, 224], InterpolationMode.BICUBIC, antialias=True
    )
    return hflip(square) if position % 2 else square


ROUTES: dict[str, Route] = {
    "Pillow": _pillow,
    "torchvision": _torchvision,
    "ours, decode: exact": lambda data, position: CROP(decode(data, LIMIT), 0, position),
    "ours, decode: fast": lambda data, position: CROP(open_jpeg(data, LIMIT), 0, position),
    "ours, decode: gpu, loader": lambda data, position: CropLater(CROP)(open_encoded(data, LIMIT), 0, position),
}

if __name__ == "__main__":
    main()
