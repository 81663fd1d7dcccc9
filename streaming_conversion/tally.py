"""Exact counts of more strings than memory holds."""

from __future__ import annotations

import heapq
import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter
from pathlib import Path

from streaming_conversion.problems import ConversionError

MOST = 1_000_000  # different strings that are kept in memory, at some 150 bytes each
FAN = 32  # files that become one
BLOCK = 1_000  # strings per line of a file

Row = tuple[str, int]


class Tally:
    """How often each string was counted.

    As soon as there are `MOST` different strings in memory, they are written to a file, sorted, and counting begins
    anew; whoever reads the counts gets all files merged. `FAN` files are merged into a larger one at a time, so that
    there are never many: each count is written once for every factor of `FAN` that there is more than `MOST`.

    Args:
        scratch: where the files are; None for the system's temporary folder.
    """

    def __init__(self, scratch: Path | None = None) -> None:
        self._scratch = scratch
        self._folder: tempfile.TemporaryDirectory[str] | None = None  # goes with its last user
        self._held: Counter[str] = Counter()
        self._files: list[list[Path]] = []  # by size

    def add(self, counts: Mapping[str, int]) -> None:
        """Add to the counts.

        Raises:
            ConversionError: there is no room for a file.
        """
        self._held.update(counts)
        if len(self._held) >= MOST:
            self._write_down(_sorted(self._held), 0)
            self._held = Counter()

    def __iter__(self) -> Iterator[Row]:
        """Strings and counts, in the order of the strings."""
        return _merge([*map(_read, itertools.chain(*self._files)), _sorted(self._held)])

    def most_common(self, number: int) -> list[Row]:
        """The most frequent first, equal ones in order."""
        return heapq.nsmallest(number, self, key=lambda row: (-row[1], row[0]))

    def _write_down(self, rows: Iterator[Row], size: int) -> None:
        try:
            self._folder = self._folder or tempfile.TemporaryDirectory(prefix="hashtags-", dir=self._scratch)
            if size == len(self._files):
                self._files.append([])
            files = self._files[size]
            path = Path(self._folder.name) / f"{size}-{len(files)}.jsonl"
            with path.open("w", encoding="ascii") as file:
                while block := list(itertools.islice(rows, BLOCK)):
                    file.write(json.dumps(block) + "\n")
        except OSError as error:
            raise ConversionError(f"counts cannot be written to --scratch: {error}") from error
        files.append(path)
        if len(files) == FAN:
            self._write_down(_merge(map(_read, files)), size + 1)
            for path in files:
                path.unlink()
            files.clear()


def _sorted(counts: Mapping[str, int]) -> Iterator[Row]:
    for string in sorted(counts):
        yield string, counts[string]


def _read(path: Path) -> Iterator[Row]:
    with path.open(encoding="ascii") as file:
        for line in file:
            yield from map(tuple, json.loads(line))


def _merge(runs: Iterable[Iterator[Row]]) -> Iterator[Row]:
    for string, rows in itertools.groupby(heapq.merge(*runs), key=itemgetter(0)):
        yield string, sum(number for _, number in rows)
