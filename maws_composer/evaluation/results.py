"""What an evaluation leaves behind: a table, results.json and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from maws_composer.evaluation.features import Extracted, Result
from maws_composer.reporting.guesses import draw_guesses

_INK, _COLOR = "#333333", "#2f6f9f"


def format_table(results: Mapping[str, Result]) -> str:
    """One line per figure."""
    rows = [
        (evaluation, name, f"{value:.4g}" if name == "learning_rate" or value > 1 else f"{value:.4f}")
        for evaluation, result in results.items()
        for name, value in result.figures.items()
    ]
    rows = [("evaluation", "figure", "value"), *rows]
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"{a:<{first}}  {b:<{second}}  {c:>8}" for a, b, c in rows)


def write_results(folder: Path, results: Mapping[str, Result], about: Mapping[str, Any]) -> None:
    """Write results.json and results.png.

    Args:
        folder: of the evaluation.
        results: by the name of the evaluation.
        about: what was evaluated on what.
    """
    folder.mkdir(parents=True, exist_ok=True)
    versions = {name: version(name) for name in ("maws_composer", "torch", "timm", "mosaicml", "mosaicml-streaming")}
    content = {
        **about,
        "evaluations": {
            name: {
                "figures": result.figures,
                "learning_rates": [{"learning_rate": rate, "held_out": held} for rate, held in result.learning_rates],
                "guesses": {
                    language: [[guess._asdict() for guess in best] for best in pictures]
                    for language, pictures in result.guesses.items()
                },
            }
            for name, result in results.items()
        },
        "versions": versions,
    }
    (folder / "results.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draw_results(results).savefig(folder / "results.png")


def write_guesses(folder: Path, results: Mapping[str, Result], test: Extracted) -> None:
    """Write <evaluation>.png for each evaluation with text: some images, and the texts that fit them best."""
    for name, result in results.items():
        if result.guesses:
            picture = draw_guesses(test.pictures.permute(0, 2, 3, 1).numpy(), result.guesses)
            Image.fromarray(picture).save(folder / f"{name}.png")


def draw_results(results: Mapping[str, Result]) -> Figure:
    """The figures as bars; beside them the learning rates that were tried."""
    tried = {name: result for name, result in results.items() if result.learning_rates}
    shares = _shares(results)
    size = (5.5 + 4.5 * len(tried), max(3.4, 0.4 * len(shares)))
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    bars, *curves = figure.subplots(1, 1 + len(tried), squeeze=False)[0]
    _draw_figures(bars, shares)
    for axes, (name, result) in zip(curves, tried.items(), strict=True):
        _draw_learning_rates(axes, name, result)
    return figure


def _shares(results: Mapping[str, Result]) -> dict[str, float]:
    return {
        f"{evaluation}\n{name}": value
        for evaluation, result in results.items()
        for name, value in result.figures.items()
        if name != "learning_rate" and 0 <= value <= 1
    }


def _draw_figures(axes: Axes, shares: Mapping[str, float]) -> None:
    places = range(len(shares))
    bars = axes.barh(places, list(shares.values()), color=_COLOR, height=0.6)
    axes.bar_label(bars, fmt="%.3f", padding=3, color=_INK)
    axes.set_yticks(places, list(shares))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title("on test images")


def _draw_learning_rates(axes: Axes, name: str, result: Result) -> None:
    rates, accuracies = zip(*sorted(result.learning_rates), strict=True)
    axes.semilogx(rates, accuracies, color=_COLOR, marker="o")
    axes.set_xlabel("learning rate")
    axes.set_title(f"{name}: top-1 on held-out training images")
    axes.spines[["top", "right"]].set_visible(False)
