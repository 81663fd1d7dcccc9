"""What evaluate.py found out about a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from maws_composer.reporting.page import captioned, section, titled
from maws_composer.reporting.run_data import is_same_place

_BARS = "results.png"  # the figures once more


def evaluated(run: str, evaluations: str | Path) -> dict[str, Any]:
    """The figures of the run's encoder: "<evaluation> <figure>" -> value, and "feature", of what they are.

    Args:
        run: its folder or URL.
        evaluations: a folder below which results.json files lie; of two with one figure the later one counts.
    """
    figures: dict[str, Any] = {}
    for _, results in _results(run, evaluations):
        figures |= {"feature": str(results["feature"]).replace("_", " ")} | dict(_figures(results))
    return figures


def evaluation_pictures(run: str, evaluations: str | Path, prefix: str = "") -> Iterator[str]:
    """Sections with what evaluations drew, such as images and the texts that were found for them.

    Args:
        run, evaluations: see `evaluated`.
        prefix: of the headlines, where the page is about several runs.
    """
    for path, _ in _results(run, evaluations):
        for picture in sorted(path.parent.glob("*.png")):
            if picture.name != _BARS:
                caption = f"{picture.stem.replace('_', ' ')}, {path.parent}"
                yield section(titled(picture.stem, prefix), captioned(picture.read_bytes(), caption))


def figure_rows(runs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Run -> {figure: value} as rows of a table: a line for each figure, a column for each run that has any."""
    names = dict.fromkeys(name for figures in runs.values() for name in figures)
    return [{"": name, **{run: figures.get(name, "") for run, figures in runs.items() if figures}} for name in names]


def _results(run: str, evaluations: str | Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """results.json files of evaluations of the run, the oldest first."""
    for path in sorted(Path(evaluations).glob("**/results.json"), key=lambda path: path.stat().st_mtime):
        results = json.loads(path.read_text(encoding="utf-8"))
        if is_same_place(str(results.get("weights")), run):
            yield path, results


def _figures(results: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for evaluation, result in results["evaluations"].items():
        for name, value in result["figures"].items():
            yield f"{evaluation} {name}".replace("_", " "), value
