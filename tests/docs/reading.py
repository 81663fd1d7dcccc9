"""What the pages and README hold that can be run: fenced blocks, README's indented ones, and commands between words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from tests.processes import ROOT

PAGES = [*sorted((ROOT / "docs/pages").glob("*.md")), ROOT / "README.md"]
LANGUAGES = ("yaml", "python", "sh", "json", "toml", "text")
_FENCE = re.compile(
    r"(?:<!-- onto: (?P<onto>\S+) -->\n)?```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)\n```\n",
    re.DOTALL,
)
_INDENTED = re.compile(r"(?<=\n\n)(?: {4}.*\n(?:\n(?= {4}))?)+")
_PROGRAMS = ("composer", "maws-composer", "python", "make", "pip", "source", "sbatch", "kubectl", "sky")
_INLINE = re.compile(r"(?<!`)`(make [^\s`]+|python -m [^\s`]+\.[^`\n]+|maws-composer [^\s`]+\s[^`\n]+\n?[^`\n]*)`")
_PLACEHOLDER = re.compile(r"…|\b[A-Z]{2,}\b")


class Snippet(NamedTuple):
    """A block: `onto` is the recipe that a fragment of YAML belongs to, `title` the file that it is."""

    page: str
    line: int
    language: str
    title: str | None
    onto: str | None
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str | None:
        """Its name, if it is a whole file: the title, or in the first line of a YAML."""
        named = re.match(r"# (\S+\.yaml)\n", self.text) if self.language == "yaml" else None
        return self.title or (named[1] if named else None)


class Command(NamedTuple):
    """A line that somebody types."""

    page: str
    line: int
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def snippets(*languages: str) -> list[Snippet]:
    return [snippet for page in PAGES for snippet in _blocks(page) if snippet.language in languages]


def _blocks(page: Path) -> list[Snippet]:
    text = page.read_text()

    def line(at: int) -> int:
        return text.count("\n", 0, at) + 1

    found = [
        Snippet(page.stem, line(match.start("text")), match["language"], match["title"], match["onto"], match["text"])
        for match in _FENCE.finditer(text)
    ]
    for match in _INDENTED.finditer(text) if page.stem == "README" else ():
        block = re.sub(r"^ {4}", "", match[0].rstrip("\n"), flags=re.MULTILINE)
        language = "sh" if block.split()[0] in _PROGRAMS else "text"
        found.append(Snippet(page.stem, line(match.start()), language, None, None, block))
    return found


def commands() -> list[Command]:
    """In the order of the pages, those of several lines put together."""
    found = []
    for snippet in snippets("sh"):
        text = re.sub(r"\\\n\s*", lambda broken: " " * len(broken[0]), snippet.text)  # the same number of characters
        for match in re.finditer(r"^.*\S.*$", text, re.MULTILINE):
            line = snippet.line + snippet.text.count("\n", 0, match.start())
            found.append(Command(snippet.page, line, " ".join(match[0].split())))
    for page in PAGES:
        text = page.read_text()
        for match in _INLINE.finditer(text):
            if not _PLACEHOLDER.search(match[1]):
                found.append(Command(page.stem, text.count("\n", 0, match.start()) + 1, " ".join(match[1].split())))
    return sorted(found, key=lambda command: ([page.stem for page in PAGES].index(command.page), command.line))
