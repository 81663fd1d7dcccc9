"""One spelling for each hashtag, in any script."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

VERSION = 1  # raise it when a hashtag would get another spelling

_DROPPED = ("P", "Z", "Cc", "Cf")
_VARIATION_SELECTORS = range(0xFE00, 0xFE10)


@lru_cache(maxsize=1 << 16)
def normalise(hashtag: str) -> str:
    """The hashtag's one spelling; "" if nothing is left of it.

    1. NFKC: full-width, ligatures and composed letters become one form ("ＣＡＴ" -> "CAT", "e" + accent -> "é").
    2. Case folding ("Größe" -> "grösse", "ΣΊΣΥΦΟΣ" -> "σίσυφοσ").
    3. Left out: "#" and all other punctuation ("_", "-", ".", "'", "・": Unicode category P), white space (Z, Cc),
       invisible format characters (Cf: zero-width joiners, direction marks, soft hyphens), and variation selectors,
       which say how an emoji is drawn.
    4. NFKC again: folding may have decomposed, and letters that were apart may now compose.

    Letters with their accents and vowel signs, digits, symbols ("+") and emoji stay. Words are not brought to their
    singular.
    """
    folded = unicodedata.normalize("NFKC", hashtag).casefold()
    return unicodedata.normalize("NFKC", folded.translate(_KEPT))


class _Kept(dict[int, int | None]):
    """Code point -> itself, or None where it is left out; filled as they come."""

    def __missing__(self, code: int) -> int | None:
        dropped = unicodedata.category(chr(code)).startswith(_DROPPED) or code in _VARIATION_SELECTORS
        self[code] = None if dropped else code
        return self[code]


_KEPT = _Kept()


def distinct(hashtags: tuple[str, ...]) -> set[str]:
    """The spellings of an image's hashtags, each once, without empty ones."""
    return {spelling for tag in hashtags if (spelling := normalise(tag))}
