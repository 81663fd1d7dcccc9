"""What callbacks log as pictures, as files in the run folder: `pictures/<name>-ba<batch>.png`, each with a caption."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from composer.loggers import LoggerDestination
from composer.utils import dist
from jaxtyping import UInt8
from PIL import Image

from maws_composer.reporting.pictures import FOLDER

Pixels = np.ndarray | torch.Tensor


class PictureFiles(LoggerDestination):
    """Saves what is logged with `logger.log_images` on rank 0.

    Args:
        run_folder: pictures go to its folder `pictures`.
    """

    def __init__(self, run_folder: str | Path) -> None:
        self._folder = Path(run_folder) / FOLDER

    def log_images(
        self,
        images: Pixels | Sequence[Pixels],
        name: str = "Images",
        channels_last: bool = False,
        step: int | None = None,
        *unused: Any,  # what else Composer passes concerns W&B only
        **unused_by_name: Any,
    ) -> None:
        if dist.get_global_rank() != 0:
            return
        batch = step or 0
        listed = _listed(images)
        for number, image in enumerate(listed, 1):
            title = f"{name} {number}" if len(listed) > 1 else name
            save_picture(self._folder, title, as_pixels(image, channels_last), f"{title}, after batch {batch:,}", batch)


def save_picture(folder: Path, name: str, pixels: UInt8[np.ndarray, "h w 3"], caption: str, batch: int) -> Path:
    """Write the PNG, whole or not at all, and beside it a JSON file with its name, caption and batch."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}-ba{batch}.png"
    path.with_suffix(".json").write_text(json.dumps({"name": name, "caption": caption, "batch": batch}))
    draft = path.with_suffix(".partial")
    Image.fromarray(pixels).save(draft, "PNG")
    return draft.replace(path)


def as_pixels(image: Pixels, channels_last: bool) -> UInt8[np.ndarray, "h w 3"]:
    """An image as logged, (3, h, w) or (h, w, 3), uint8 or float in 0 to 1, as uint8 (h, w, 3)."""
    array = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    if not channels_last:
        array = np.moveaxis(array, 0, -1)
    if array.dtype != np.uint8:
        array = (array.clip(0, 1) * 255).round().astype(np.uint8)
    return np.ascontiguousarray(array)


def _listed(images: Pixels | Sequence[Pixels]) -> list[Pixels]:
    if isinstance(images, (np.ndarray, torch.Tensor)):
        return [images] if images.ndim == 3 else list(images)
    return list(images)
