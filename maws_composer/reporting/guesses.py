"""Images, and beside each the texts that a model finds to fit it best, in several languages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, features

from maws_composer.reporting.fonts import font_for, is_right_to_left

_TILE = 112  # pixels: smaller pictures are enlarged, larger ones reduced
_COLUMN, _LINE, _GAP, _HEAD = 212, 22, 14, 30
_ACROSS = 5  # languages beside one another, at most; more go below
_TEXTS = 5  # of a language
_SIZE = 15
_PAPER, _INK, _SOFT, _RIGHT = (255, 255, 255), (60, 60, 60), (130, 130, 130), (22, 126, 64)


class Guess(Protocol):
    """A text, and whether it is right."""

    @property
    def text(self) -> str: ...

    @property
    def is_right(self) -> bool: ...


def draw_guesses(
    pictures: UInt8[np.ndarray, "n h w 3"], guesses: Mapping[str, Sequence[Sequence[Guess]]]
) -> UInt8[np.ndarray, "height width 3"]:
    """One picture of all of them: a row for each image, a column for each language; what is right is green.

    A text whose letters no font here has is not drawn as boxes: its place says so.

    Args:
        pictures: images.
        guesses: language -> for each image its texts, the best first.

    Raises:
        ValueError: there is no image or no language, or not as many images as lists of texts.
    """
    if not len(pictures) or not guesses or any(len(texts) != len(pictures) for texts in guesses.values()):
        counts = {language: len(texts) for language, texts in guesses.items()}
        raise ValueError(f"expected texts for each of {len(pictures)} pictures, got {counts}")
    across = -(-len(guesses) // -(-len(guesses) // _ACROSS))  # six languages in two bands of three
    bands = [list(guesses)[begin : begin + across] for begin in range(0, len(guesses), across)]
    band_height = _TEXTS * _LINE + (_LINE + _GAP if len(bands) > 1 else 0)
    row_height = max(_TILE, len(bands) * band_height) + _GAP
    width = _TILE + max(map(len, bands)) * (_COLUMN + _GAP) + _GAP
    sheet = Image.new("RGB", (width, _HEAD + len(pictures) * row_height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for row, picture in enumerate(pictures):
        top = _HEAD + row * row_height
        sheet.paste(_tile(picture), (0, top))
        for number, band in enumerate(bands):
            place = top + number * band_height
            for column, language in enumerate(band):
                left = _TILE + _GAP + column * (_COLUMN + _GAP)
                if len(bands) > 1:
                    _text(pen, left, place, language, _SOFT, "en")
                elif row == 0:
                    _text(pen, left, _HEAD - _LINE - 2, language, _SOFT, "en")
                first = place + (_LINE if len(bands) > 1 else 0)
                _column(pen, left, first, guesses[language][row], language)
    return np.asarray(sheet)


def _tile(picture: UInt8[np.ndarray, "h w 3"]) -> Image.Image:
    whole = Image.fromarray(picture)
    scale = _TILE / max(whole.size)
    size = (round(whole.width * scale), round(whole.height * scale))
    return whole.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)


def _column(pen: ImageDraw.ImageDraw, left: int, top: int, texts: Sequence[Guess], language: str) -> None:
    for line, guess in enumerate(texts[:_TEXTS]):
        _text(pen, left, top + line * _LINE, guess.text, _RIGHT if guess.is_right else _INK, language)


def _text(pen: ImageDraw.ImageDraw, left: int, top: int, text: str, color: tuple[int, int, int], language: str) -> None:
    font = font_for(text, _SIZE)
    if font is None:
        text, color, language = "(no font here has its letters)", _SOFT, "en"
        font = font_for(text, _SIZE)
    assert font is not None, "DejaVu Sans has Latin letters"
    # the same Chinese character is written differently in Japan, Korea and China
    spoken = {"zh": "zh-Hans"}.get(language, language) if features.check("raqm") and len(language) == 2 else None
    shown = text
    while font.getlength(shown, language=spoken) > _COLUMN and len(shown) > 1:
        shown = shown.removesuffix("…")[:-1].rstrip() + "…"
    if is_right_to_left(text):
        pen.text((left + _COLUMN, top + _SIZE), shown, fill=color, font=font, anchor="rs", language=spoken)
    else:
        pen.text((left, top + _SIZE), shown, fill=color, font=font, anchor="ls", language=spoken)
