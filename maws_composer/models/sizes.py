"""The sizes of the models. Plain numbers: importing this costs nothing, so that the planner can do without torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ViTSize:
    """Shape of a vision transformer (MAWS paper, table 1). The MLP is 4 times as wide as the tokens.

    Raises:
        ValueError: the heads do not divide the width, or the width cannot hold 2-D sin-cos positions.
    """

    width: int
    depth: int
    heads: int
    patch_size: int

    def __post_init__(self) -> None:
        _check_width(self.width, self.heads)

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def patch_values(self) -> int:
        """Numbers in one patch: rows x columns x RGB."""
        return 3 * self.patch_size**2

    def grid(self, image_size: int) -> int:
        """Patches along one side of a square image.

        Raises:
            ValueError: the image is not a whole number of patches wide.
        """
        if image_size < self.patch_size or image_size % self.patch_size:
            below = image_size // self.patch_size * self.patch_size
            nearest = f"{below} or {below + self.patch_size}" if below else f"{self.patch_size}"
            raise ValueError(
                f"image size {image_size} is not a multiple of the patch size {self.patch_size}; use {nearest}"
            )
        return image_size // self.patch_size

    def patches(self, image_size: int) -> int:
        return self.grid(image_size) ** 2


@dataclass(frozen=True)
class DecoderSize:
    """Shape of the MAE decoder; the default is the MAE paper's, which MAWS keeps for every encoder."""

    width: int = 512
    depth: int = 8
    heads: int = 16

    def __post_init__(self) -> None:
        _check_width(self.width, self.heads)
        if self.depth < 1:
            raise ValueError(f"depth {self.depth} is no decoder; expected 1 block or more")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


@dataclass(frozen=True)
class TextSize:
    """Shape of a text encoder of BERT's kind. The MLP is 4 times as wide as the tokens.

    Attributes:
        vocabulary, positions, token_types: rows of the three embeddings.
    """

    width: int
    depth: int
    heads: int
    vocabulary: int
    positions: int
    token_types: int = 1

    @property
    def head_dim(self) -> int:
        return self.width // self.heads


def _check_width(width: int, heads: int) -> None:
    if width % heads:
        raise ValueError(f"width {width} cannot be split over {heads} heads")
    if width % 4:
        raise ValueError(f"width {width} is not a multiple of 4: sin and cos of two axes need four equal parts")


def visible_patches(patches: int, mask_ratio: float) -> int:
    """How many patches the encoder sees: 49 of 196 and 64 of 256 at a mask ratio of 0.75 (He et al. 2021).

    Raises:
        ValueError: nothing would be visible, or nothing hidden.
    """
    visible = int(patches * (1 - mask_ratio))
    if not 0 < visible < patches:
        raise ValueError(f"mask ratio {mask_ratio} leaves {visible} of {patches} patches visible; 0.75 is usual")
    return visible


SIZES: dict[str, ViTSize] = {
    "vit_b16": ViTSize(width=768, depth=12, heads=12, patch_size=16),
    "vit_l16": ViTSize(width=1024, depth=24, heads=16, patch_size=16),
    "vit_h14": ViTSize(width=1280, depth=32, heads=16, patch_size=14),
    "vit_2b14": ViTSize(width=2560, depth=24, heads=32, patch_size=14),
    "vit_6.5b14": ViTSize(width=4096, depth=32, heads=32, patch_size=14),
    "vit_micro": ViTSize(width=128, depth=4, heads=4, patch_size=6),  # ours, for the quickstart's 48 px pictures
}
