"""What evaluate.py found out about a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def evaluated(run_folder: Path, evaluations: str | Path) -> dict[str, Any]:
    """The figures of the run's encoder: "<evaluation> <figure>" -> value, and "feature", of what they are.

    Args:
        run_folder: local folder of the run.
        evaluations: a folder below which results.json files lie; of two of one run the later one counts.
    """
    figures: dict[str, Any] = {}
    for path in sorted(Path(evaluations).glob("**/results.json"), key=lambda path: path.stat().st_mtime):
        results = json.loads(path.read_text())
        if Path(str(results.get("weights"))).resolve() == run_folder.resolve():
            figures |= {"feature": str(results["feature"]).replace("_", " ")} | dict(_figures(results))
    return figures


def _figures(results: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for evaluation, result in results["evaluations"].items():
        for name, value in result["figures"].items():
            yield f"{evaluation} {name}".replace("_", " "), value


def figure_rows(runs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Run -> {figure: value} as rows of a table: a line for each figure, a column for each run that has any."""
    names = dict.fromkeys(name for figures in runs.values() for name in figures)
    return [{"": name, **{run: figures.get(name, "") for run, figures in runs.items() if figures}} for name in names]
