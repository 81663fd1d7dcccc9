"""WordNet's nouns, from the files that Princeton distributes (their format: the manual page wndb(5WN))."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from streaming_conversion.hashtags import Spelling, normalise
from streaming_conversion.problems import ConversionError

DEFAULT_FOLDER = Path("/usr/share/wordnet")
INDEX, DATA = "index.noun", "data.noun"


@dataclass(frozen=True)
class Synset:
    """A meaning.

    Args:
        id: "n" and the eight digits of its place in `data.noun`, as ImageNet writes it.
        lemmas: the words that have it, the most usual first, with spaces.
        gloss: its definition and examples.
    """

    id: str
    lemmas: tuple[str, ...]
    gloss: str


class WordNet:
    """The nouns of a `dict/` folder.

    Args:
        folder: with `index.noun` and `data.noun`.
        spell: brings a lemma to the spelling that hashtags have.

    Raises:
        ConversionError: it does not have them, or they are damaged.
    """

    def __init__(self, folder: Path = DEFAULT_FOLDER, spell: Spelling = normalise) -> None:
        self._data = folder / DATA
        absent = [name for name in (INDEX, DATA) if not (folder / name).is_file()]
        if absent:
            raise ConversionError(
                f"there is no WordNet in {folder} ({' and '.join(absent)} missing): install Debian's package "
                "wordnet-base, or name the dict folder of Princeton's WordNet with --wordnet, "
                "or do without: --canonical table or none"
            )
        text = (folder / INDEX).read_bytes()
        self.digest = hashlib.sha256(text).hexdigest()[:16]
        self.senses = _senses(text.decode("utf-8", "replace"), folder / INDEX, spell)

    def has(self, identifier: str) -> bool:
        """Whether there is such a synset."""
        try:
            self.synset(identifier)
        except ConversionError:
            return False
        return True

    def synset(self, identifier: str) -> Synset:
        """The synset of an identifier such as "n02132136".

        Raises:
            ConversionError: there is none.
        """
        offset = int(identifier[1:])
        with self._data.open("rb") as file:
            file.seek(offset)
            line = file.readline().decode("utf-8", "replace")
        fields, _, gloss = line.partition("|")
        words = fields.split()
        if len(words) < 5 or words[0] != f"{offset:08}":
            raise ConversionError(f"{self._data} has no synset {identifier}")
        count = int(words[3], 16)
        lemmas = tuple(word.replace("_", " ") for word in words[4 : 4 + 2 * count : 2])
        return Synset(identifier, lemmas, gloss.strip())


def _senses(text: str, path: Path, spell: Spelling) -> dict[str, tuple[str, ...]]:
    """A lemma's spelling -> its synsets, the most frequent sense first.

    Lemmas that differ in separators only ("sea bass", "seabass") come together: all first senses before all second.
    """
    ranked: dict[str, dict[str, int]] = defaultdict(dict)
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("  ") or not line:  # the licence
            continue
        fields = line.split()
        try:
            count = int(fields[2])
            offsets = [int(offset) for offset in fields[-count:]]
            # lemma, part of speech, number of senses, number of pointers, pointers, two more numbers, offsets
            if len(fields) != 6 + int(fields[3]) + count:
                raise ValueError
        except (ValueError, IndexError) as error:
            raise ConversionError(f"{path}, line {number}: not a line of WordNet's index: {line:.60}") from error
        ranks = ranked[spell(fields[0])]
        for rank, offset in enumerate(offsets):
            ranks.setdefault(f"n{offset:08}", rank)
    return {lemma: tuple(sorted(ranks, key=ranks.__getitem__)) for lemma, ranks in ranked.items() if lemma}
