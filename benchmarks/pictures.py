"""Pictures with the statistics of photographs, made on the spot, in every layout that a loader reads."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from streaming import MDSWriter

SHARD = 16 << 20  # bytes


def photograph_like(number: int, size: tuple[int, int]) -> Image.Image:
    """Occluding discs of all sizes ("dead leaves", Lee, Mumford and Huang 2001) under noise of amplitude 1/frequency.

    Both have the spectrum of photographs, the discs their edges too. At 500 x 375 and quality 90 a JPEG of it has about
    as many bytes as one of a photograph.
    """
    rng = np.random.default_rng(number)
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    picture = np.full((height, width, 3), 128.0)
    for _ in range(60):
        radius = min(8 / (1 - rng.random() * 0.98), height / 2)  # density ~ radius ** -3, as perspective makes it
        row, column = rng.random() * height, rng.random() * width
        disc = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
        picture[disc] = rng.uniform(20, 235) + rng.normal(0, 25, 3)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = 1
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(height, width))) / frequency, s=(height, width))
    picture += 12 * (noise / noise.std())[..., None]
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def jpegs(count: int, size: tuple[int, int], resized_to: tuple[int, int] | None = None) -> list[bytes]:
    """`count` JPEGs of quality 90; with `resized_to`, as a conversion with --resize stores the same pictures."""
    made = []
    for number in range(count):
        image = photograph_like(number, size)
        file = io.BytesIO()
        if resized_to is not None:
            image = image.resize(resized_to, Image.Resampling.LANCZOS)
        image.save(file, "JPEG", quality=90)
        made.append(file.getvalue())
    return made


def repeated(pictures: Sequence[bytes], count: int) -> Iterator[tuple[str, bytes]]:
    """`count` names and pictures; names are those of a class folder, so that ImageFolder reads them too."""
    for number in range(count):
        yield f"{number % 4}/{number:06}", pictures[number % len(pictures)]


def write_mds(folder: Path, pictures: Sequence[bytes], count: int) -> None:
    columns = {"image": "bytes", "id": "str"}
    with MDSWriter(out=str(folder), columns=columns, hashes=["sha1"], size_limit=SHARD) as writer:
        for name, data in repeated(pictures, count):
            writer.write({"image": data, "id": name})


def write_files(folder: Path, pictures: Sequence[bytes], count: int) -> None:
    for name, data in repeated(pictures, count):
        path = folder / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def write_tar(path: Path, pictures: Sequence[bytes], count: int) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in repeated(pictures, count):
            about = tarfile.TarInfo(f"{name.replace('/', '-')}.jpg")
            about.size = len(data)
            tar.addfile(about, io.BytesIO(data))


class AsItIs:
    """In the place of a transform: what was "decoded" is what travels."""

    size = 1

    def __call__(self, image: Any, epoch: int, position: int) -> Any:
        return image
