"""JPEGs decoded, cropped, resized and mirrored on the device: the rank's half of `data.train.decode: gpu`.

In series with the training step, because Composer asks for it between two of them.
"""

from __future__ import annotations

import io
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from maws_composer.config.problems import Problem
from maws_composer.data.batches import Batch
from maws_composer.data.columns import ID, IMAGE
from maws_composer.data.decode import UndecodableImageError, decode
from maws_composer.data.encoded import Packed
from maws_composer.data.settings import TrainData
from maws_composer.data.transforms import Pixels, pixels

log = logging.getLogger(__name__)

File = UInt8[Tensor, " bytes"]
Rows = Mapping[int, Sequence[int]]  # number of a JPEG -> rows that are crops of it

_AT_ONCE = 2**26  # pixels: 200 MB when they are decoded
_SHRINKS = 40  # times, at most, on the device
_KEPT = ("position", "epoch", "valid")  # by a row in which another sample takes the place of its own


class DeviceDecoder:
    """From a batch of `collate_encoded` to the one that `build_train_loader` promises, as Composer's batch_transforms.

    What the device's decoder refuses, Pillow decodes. Where it cannot either, the next image of the batch takes the
    place, and the row is `replaced`. Which one that is depends on the number of ranks, unlike what loader workers
    replace: they let pass only what begins and ends as a whole JPEG does, so that such a file is rare.

    Args:
        size: side of the crops, in pixels.
        max_pixels: of a picture.
        device: that decodes them.
    """

    def __init__(self, size: int, max_pixels: int, device: torch.device) -> None:
        self.size, self.max_pixels, self.device = size, max_pixels, device
        self._has_warned = False

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `image` as uint8 (batch, 3, size, size) on the device.

        Raises:
            UndecodableImageError: no image of the batch can be decoded.
        """
        packed = Packed(*(batch[name] for name in Packed._fields))
        files, rows = packed.files.split(packed.lengths.tolist()), _rows_of_each(packed.jpeg)
        images = torch.empty(len(packed.jpeg), 3, self.size, self.size, dtype=torch.uint8, device=self.device)
        if len(packed.made):
            self._write(images, (packed.jpeg < 0).nonzero()[:, 0], packed.made)
        lost: dict[int, str] = {}
        for group in _groups(packed.sizes):
            pictures, reasons = self._decode({number: files[number] for number in group})
            self._crop(images, pictures, rows, packed)
            lost |= {row: reason for number, reason in reasons.items() for row in rows[number]}
        batch = {**{name: column for name, column in batch.items() if name not in Packed._fields}, IMAGE: images}
        return _with_replacements(batch, lost, crops=len(next(iter(rows.values())))) if lost else batch

    def _decode(self, files: Mapping[int, File]) -> tuple[dict[int, Pixels], dict[int, str]]:
        """Pictures by the numbers of their files, and why there is none."""
        decoded, reasons = {}, {}
        for number, picture in zip(files, decode_each([*files.values()], self.device), strict=True):
            try:
                decoded[number] = picture if isinstance(picture, Tensor) else self._by_pillow(files[number], picture)
            except UndecodableImageError as error:
                reasons[number] = str(error)
        return decoded, reasons

    def _by_pillow(self, file: File, refusal: RuntimeError) -> Pixels:
        if not self._has_warned:
            log.warning("Pillow decodes a JPEG, and others to come, that the device refuses: %s", refusal)
            self._has_warned = True
        return pixels(decode(file.numpy().tobytes(), self.max_pixels)).to(self.device)

    def _crop(
        self, images: UInt8[Tensor, "batch 3 size size"], pictures: Mapping[int, Pixels], rows: Rows, packed: Packed
    ) -> None:
        """Make the rows of these pictures."""
        targets = torch.tensor([row for number in pictures for row in rows[number]])
        if not len(targets):
            return
        whole = [picture for number, picture in pictures.items() for _ in rows[number]]
        boxes = packed.boxes[targets].tolist()
        crops = torch.cat([resized(picture, box, self.size) for picture, box in zip(whole, boxes, strict=True)])
        mirrored = packed.mirrored[targets].to(self.device)
        crops = torch.where(mirrored[:, None, None, None], crops.flip(3), crops)
        self._write(images, targets, crops.round_().clamp_(0, 255).to(torch.uint8))

    def _write(
        self,
        images: UInt8[Tensor, "batch 3 size size"],
        rows: Int64[Tensor, " rows"],
        values: UInt8[Tensor, "rows 3 size size"],
    ) -> None:
        images[rows.to(self.device)] = values.to(self.device, non_blocking=True)


def decode_each(files: Sequence[File], device: torch.device) -> list[Pixels | RuntimeError]:
    """The pictures in RGB on the device, or why it refuses one. In halves, which finds one of n in log n attempts."""
    if device.type == "cuda":
        # nvJPEG's engine waits for no kernel that still reads what was in the memory which it is given (vision#9606).
        torch.cuda.current_stream(device).synchronize()
    try:
        return [*decode_jpeg([*files], ImageReadMode.RGB, device)]
    except RuntimeError as error:
        if len(files) == 1:
            return [error]
    middle = len(files) // 2
    return [*decode_each(files[:middle], device), *decode_each(files[middle:], device)]


def resized(picture: Pixels, box: Sequence[int], size: int) -> Float[Tensor, "1 3 size size"]:
    """A box of the picture, resized to a square, bicubic and antialiased; not rounded, and not between 0 and 255."""
    left, top, right, bottom = box
    # First crop, then resize, as in `resized_crop`.
    crop = picture[None, :, top:bottom, left:right].float()
    # A GPU's kernel refuses more than about 47 times, for want of shared memory.
    where = "cpu" if max(right - left, bottom - top) > _SHRINKS * size else picture.device
    return F.interpolate(crop.to(where), (size, size), mode="bicubic", antialias=True).to(picture.device)


def device_problems(data: TrainData) -> list[Problem]:
    """Whether this machine has a GPU that decodes JPEGs, if `decode` asks for one."""
    if data.decode != "gpu":
        return []
    if not torch.cuda.is_available():
        return [Problem("data.train.decode", "gpu needs a CUDA GPU and none is visible; set fast, or exact")]
    try:
        decode_jpeg([torch.frombuffer(_smallest_jpeg(), dtype=torch.uint8)], ImageReadMode.RGB, "cuda")
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        message = f"the GPU decodes no JPEG ({reason}); install a torchvision with nvJPEG, or set fast, or exact"
        return [Problem("data.train.decode", message)]
    return []


def _smallest_jpeg() -> bytearray:
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    return bytearray(file.getvalue())


def _rows_of_each(jpegs: Int64[Tensor, " batch"]) -> Rows:
    rows = defaultdict(list)
    for row, number in enumerate(jpegs.tolist()):
        if number >= 0:
            rows[number].append(row)
    return rows


def _groups(sizes: Int64[Tensor, "jpegs 2"]) -> Iterator[list[int]]:
    """Numbers of pictures that have `_AT_ONCE` pixels together, at most, or of one that has more."""
    group: list[int] = []
    taken = 0
    for number, (width, height) in enumerate(sizes.tolist()):
        if group and taken + width * height > _AT_ONCE:
            yield group
            group, taken = [], 0
        group.append(number)
        taken += width * height
    if group:
        yield group


def _with_replacements(batch: Batch, lost: Mapping[int, str], crops: int) -> Batch:
    """The batch, the next image in the place of each that is lost.

    Args:
        batch: its rows, in the order of `collate`.
        lost: rows without an image -> why.
        crops: rows of each image.
    """
    count = len(batch["replaced"])
    images = count // crops
    sources = list(range(count))
    for row, reason in lost.items():
        same_crop = (row - row % images + (row + step) % images for step in range(1, images))
        source = next((other for other in same_crop if other not in lost), None)
        name = batch[ID][row]
        if source is None:
            raise UndecodableImageError(f"none of the {images} images of a batch can be decoded; {name}: {reason}")
        if row < images:
            log.warning("sample %s cannot be decoded: %s; %s takes its place", name, reason, batch[ID][source])
        sources[row] = source
    taken = {name: column if name in _KEPT else _taken(column, sources) for name, column in batch.items()}
    taken["replaced"][list(lost)] = True
    return taken


def _taken(column: Any, rows: Sequence[int]) -> Any:
    return column[rows] if isinstance(column, Tensor) else [column[row] for row in rows]
