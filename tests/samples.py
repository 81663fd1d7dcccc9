"""Which samples a run trained on, by what the plug-in `record_ids` wrote down."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path


def samples_of(folder: Path) -> dict[int, list[str]]:
    """Ids in each global batch, sorted, as trained on by the last launch that came to it."""
    parts: dict[tuple[int, str], dict[str, list[str]]] = {}
    newest: dict[int, tuple[float, str]] = {}
    for file in folder.glob("ids-rank*.jsonl"):
        for line in file.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # it was killed while writing
                continue
            batch, launch = entry["batch"], entry["launch"]
            parts.setdefault((batch, launch), {})[file.name] = entry["ids"]  # after a rewind the later one counts
            newest[batch] = max(newest.get(batch, (0.0, "")), (entry["time"], launch))
    shares = {batch: parts[batch, launch].values() for batch, (_, launch) in newest.items()}
    return {batch: sorted(chain.from_iterable(shares[batch])) for batch in sorted(shares)}
