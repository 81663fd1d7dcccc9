"""A dataset of the user's own, as a user writes it."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import Field
from torch.utils.data import Dataset

from maws_composer.registry import register_dataset


@register_dataset("my_images")
class Noise(Dataset):
    """Pictures of noise, brightened at random.

    Args:
        count: how many.
        side: in pixels.
        edition: of the pictures.
    """

    def __init__(self, count: Annotated[int, Field(ge=0)], side: int = 40, edition: int = 0) -> None:
        self.count, self.side, self.edition = count, side, edition

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> dict[str, Any]:
        generator = np.random.default_rng((number, self.edition))
        pixels = generator.integers(0, 200, (self.side, self.side, 3))
        picture = Image.fromarray((pixels + np.random.randint(50)).astype(np.uint8))
        return {"image": picture, "id": f"noise-{number}", "labels": [number % 3], "caption": f"noise {number}"}

    def fingerprint(self) -> str:
        return f"edition {self.edition}"
