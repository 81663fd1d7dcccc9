"""Fonts for the scripts of many languages, from packages, so that pictures are the same on every machine.

DejaVu Sans, which matplotlib brings, has Latin, Cyrillic and Arabic letters. Chinese, Japanese and Korean are in Noto
Sans CJK, of PyPI's cvttf-notosanscjk-regular (extra `quickstart`): without it, texts in these are not drawn.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from matplotlib import get_data_path
from matplotlib.ft2font import FT2Font
from PIL import ImageFont, features

_NOTO = "cvttf_NotoSansCJK_Regular"
_RIGHT_TO_LEFT = range(0x0590, 0x0900)  # Hebrew, Arabic and their neighbors
_SPACES = {" ", "\u200c", "\u200d", "\u200e", "\u200f"}  # which no font needs to have


class Font(NamedTuple):
    """A font file, and the characters that it has."""

    path: str
    characters: frozenset[int]

    def lacks(self, text: str) -> int:
        return sum(ord(character) not in self.characters for character in text if character not in _SPACES)


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont | None:
    """The font that has all of the text's characters, or None. Arabic also needs Pillow's raqm, which shapes it."""
    if is_right_to_left(text) and not features.check("raqm"):
        return None
    fitting = [font for font in _fonts() if font.lacks(text) == 0]
    return _opened(fitting[0].path, size) if fitting else None


def is_right_to_left(text: str) -> bool:
    """By its first letter."""
    return next((ord(letter) in _RIGHT_TO_LEFT for letter in text if letter.isalpha()), False)


@cache
def _fonts() -> tuple[Font, ...]:
    files = [Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"]
    spec = find_spec(_NOTO)
    if spec is not None and spec.submodule_search_locations:
        files += sorted(Path(spec.submodule_search_locations[0]).glob("*.otf"))
    return tuple(Font(str(file), frozenset(FT2Font(str(file)).get_charmap())) for file in files)


@cache
def _opened(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)
