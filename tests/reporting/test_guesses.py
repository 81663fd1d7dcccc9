"""Pictures of guesses: every script in letters, never in boxes."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from PIL import features

from maws_composer.evaluation.features import Guess
from maws_composer.evaluation.wording import LANGUAGES, read_templates
from maws_composer.reporting.fonts import font_for, is_right_to_left
from maws_composer.reporting.guesses import draw_guesses

BLACK = np.zeros((1, 8, 8, 3), np.uint8)
CJK = {"ja", "ko", "zh"}
pytestmark = pytest.mark.skipif(not features.check("raqm"), reason="this Pillow shapes no Arabic")


def drawn(text: str, language: str = "en") -> np.ndarray:
    return draw_guesses(BLACK, {language: [[Guess(text, False)]]})


def test_there_are_letters_for_every_language() -> None:
    noto = find_spec("cvttf_NotoSansCJK_Regular") is not None
    for language in LANGUAGES:
        for template in read_templates(language)[1:]:  # the first is the name alone
            assert (font_for(template, 15) is not None) == (noto or language not in CJK), template


def test_letters_that_no_font_has_are_not_drawn_as_boxes() -> None:
    assert np.array_equal(drawn("𓃠"), drawn("𓄿𓅓 a"))  # hieroglyphs: the place says that there are no letters
    assert not np.array_equal(drawn("𓃠"), drawn("a"))


def test_arabic_is_written_from_the_right() -> None:
    assert all(map(is_right_to_left, ("قطة", "گربه"))) and not any(map(is_right_to_left, ("cat", "кошка", "猫")))
    arabic, english = ((drawn(text, "en")[30:, 120:] < 200).any((0, 2)).nonzero()[0] for text in ("قطة", "cat"))
    assert english.max() < 60 < 150 < arabic.min()  # pixels from the column's left end


def test_what_is_right_is_green_and_pictures_have_texts_each() -> None:
    wrong, right = (draw_guesses(BLACK, {"en": [[Guess("a cat", is_right)]]}) for is_right in (False, True))
    greener = right.astype(int)[..., 1] - right.astype(int)[..., 0]
    assert greener.max() > 60 and (wrong.astype(int)[..., 1] - wrong.astype(int)[..., 0]).max() < 5
    with pytest.raises(ValueError, match="texts for each of 1 pictures"):
        draw_guesses(BLACK, {"en": [[], []]})
