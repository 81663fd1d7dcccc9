"""One spelling for each hashtag, in any script."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

VERSION = 2  # raise it when a hashtag would get another spelling
RAW = "raw"  # stands in its place for hashtags that were not normalised

Spelling = Callable[[str], str]  # raw hashtag -> its spelling; of a module's top level, since it goes to processes

_DROPPED = ("P", "Z", "Cc", "Cf", "Cs", "Sk")
_TAGS = range(0xE0020, 0xE0080)
_KEPT = {*_TAGS, *range(0x1F3FB, 0x1F400), 0x309B, 0x309C}  # skin tones are Sk, and the sound marks of か゛, too
_DROPPED_TOO = {
    0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x3164, 0xFFA0,  # invisible
    *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0),  # variation selectors
    0x0640,  # stretches Arabic words
    ord("~"),  # the full-width ～ becomes it, and stands for 〜, which is punctuation
}  # fmt: skip
_FLAG_OR_TAG = re.compile("(\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f)|[\U000e0020-\U000e007f]")
_DOTTED_I = re.compile("i\u0307+")


@lru_cache(maxsize=1 << 16)
def normalise(hashtag: str) -> str:
    """The hashtag's one spelling; "" if nothing is left of it.

    1. NFKC: full-width, ligatures and composed letters become one form ("ＣＡＴ" -> "CAT", "e" + accent -> "é").
    2. Case folding ("Größe" -> "grösse", "ΣΊΣΥΦΟΣ" -> "σίσυφοσ"). It knows no languages: I is Latin's capital i, so
       that "IŞIK" gives "işik" and "ışık" stays; "İstanbul" gives "istanbul".
    3. Left out, before and after: "#" and all other punctuation ("_", "-", ".", "'", "・": Unicode category P; "~"),
       white space (Z, Cc), accents that stand alone ("´", "¨", "`": Sk, but not skin tones), what is invisible (Cf:
       zero-width joiners, direction marks, soft hyphens; fillers, half surrogates), variation selectors, which say how
       a letter or an emoji is drawn, and Arabic's tatweel.
    4. NFKC again: folding may have decomposed, and letters that were apart may now compose.

    Letters with their accents and vowel signs, digits, symbols ("+") and emoji stay, flags of England, Scotland and
    Wales with the tags that tell them apart. Words are not brought to their singular.
    """
    compatible = unicodedata.normalize("NFKC", hashtag.translate(_TRANSLATION))
    folded = compatible.casefold().translate(_TRANSLATION)
    return unicodedata.normalize("NFKC", _DOTTED_I.sub("i", _FLAG_OR_TAG.sub(r"\1", folded)))


def as_written(hashtag: str) -> str:
    """The hashtag letter by letter: no normalisation. Half a surrogate pair, which no file holds, becomes "?"."""
    return hashtag.encode(errors="replace").decode()


class _Translation(dict[int, int | None]):
    """Code point -> itself, or None where it is left out; filled as they come."""

    def __missing__(self, code: int) -> int | None:
        dropped = unicodedata.category(chr(code)).startswith(_DROPPED) and code not in _KEPT
        self[code] = None if dropped or code in _DROPPED_TOO else code
        return self[code]


_TRANSLATION = _Translation()


def distinct(hashtags: tuple[str, ...], spell: Spelling) -> set[str]:
    """The spellings of an image's hashtags, each once, without empty ones."""
    return {spelling for tag in hashtags if (spelling := spell(tag))}
