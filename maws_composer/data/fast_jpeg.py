"""JPEGs of which only the crop is made, at the scale that it needs: the route `data.train.decode: fast`."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from maws_composer.data.decode import decode, jpeg_header, resized_crop

cv2.setNumThreads(0)  # loader workers are the threads

_REDUCED = {
    8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2, 1: cv2.IMREAD_COLOR,
}  # fmt: skip


@dataclass(frozen=True)
class Jpeg:
    """A JPEG that is not decoded yet.

    Attributes:
        data: the whole file.
        size: (width, height).
    """

    data: bytes
    size: tuple[int, int]
    _decoded: dict[int, UInt8[np.ndarray, "height width 3"] | None] = field(default_factory=dict)  # by scale

    def crop(
        self, box: tuple[int, int, int, int], size: int, mirrored: bool = False
    ) -> UInt8[np.ndarray, "3 size size"]:
        """A box of the picture, resized to a square, RGB, channels first.

        Scaled down by 2, 4 or 8 while it is decoded, as long as the box keeps `size` pixels on its shorter side; then
        by the mean over each pixel's area, or bicubic where the box is smaller than the square. The box is moved to
        whole pixels of the scaled picture.

        Raises:
            UndecodableImageError: neither OpenCV nor Pillow can decode it.
        """
        left, top, right, bottom = box
        shorter = min(right - left, bottom - top)
        scale = next((scale for scale in _REDUCED if shorter >= scale * size), 1)
        picture = self._scaled_down(scale)
        if picture is None:  # not readable by OpenCV; by Pillow perhaps
            return resized_crop(decode(self.data, self.size[0] * self.size[1]), box, size, mirrored)
        height, width = picture.shape[:2]
        right, bottom = min(round(right / scale), width), min(round(bottom / scale), height)
        cut = picture[round(top / scale) : bottom, round(left / scale) : right]
        how = cv2.INTER_AREA if min(cut.shape[:2]) >= size else cv2.INTER_CUBIC
        square = cv2.resize(cut, (size, size), interpolation=how)
        if mirrored:
            square = cv2.flip(square, 1)
        planes = np.empty((3, size, size), np.uint8)
        cv2.split(square, [planes[2], planes[1], planes[0]])  # 4 µs; numpy takes 50 to put channels first
        return planes

    def _scaled_down(self, scale: int) -> UInt8[np.ndarray, "height width 3"] | None:
        """The whole picture, BGR, once for all of its crops; None: OpenCV cannot read it."""
        if scale not in self._decoded:
            how = _REDUCED[scale] | cv2.IMREAD_IGNORE_ORIENTATION
            self._decoded[scale] = cv2.imdecode(np.frombuffer(self.data, np.uint8), how)
        return self._decoded[scale]


def open_jpeg(data: bytes | Image.Image, max_pixels: int) -> Jpeg | Image.Image:
    """A whole JPEG in grey or YCbCr, to be decoded when its crop is known. Anything else is decoded now, by `decode`.

    Raises:
        UndecodableImageError: see `decode`.
    """
    header = jpeg_header(data, max_pixels)
    if isinstance(data, bytes) and header is not None:
        return Jpeg(data, header.size)
    return decode(data, max_pixels)
