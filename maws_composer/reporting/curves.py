"""Curves of a run as PNG, readable on light and dark paper alike."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from maws_composer.reporting.metrics_file import Steps

_GRAY = "#808080"  # on white and on black
_COLORS = ("#2f7ed8", "#e8702a", "#2a9d5c", "#b45fc4")
_POINTS = 400  # of a curve: beyond, each is a mean
_SMOOTH_POINTS = 50
_DOTS = 25  # up to so many points are marked

Series = tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]


def series(steps: Steps, key: str) -> Series:
    """(samples, values) of the steps that have a number for `key`."""
    pairs = [(step["samples"], step[key]) for step in steps if isinstance(step.get(key), (int, float))]
    samples, values = zip(*pairs, strict=True) if pairs else ((), ())
    return np.asarray(samples, float), np.asarray(values, float)


def thinned(curve: Series, points: int = _POINTS) -> Series:
    """At most `points` points, each the mean of its share of the curve."""
    samples, values = curve
    if len(samples) <= points:
        return curve
    parts = np.array_split(np.arange(len(samples)), points)
    return np.array([samples[part].mean() for part in parts]), np.array([values[part].mean() for part in parts])


def draw_curves(curves: Mapping[str, Series], noisy: Sequence[str], label: str) -> bytes:
    """One plot of several curves against samples, as PNG with a transparent ground.

    Args:
        curves: name -> curve.
        noisy: those that are drawn as means over shares of the curve, with the values behind.
        label: of the vertical axis.
    """
    figure = Figure(figsize=(7.2, 3.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for color, (name, curve) in zip(_COLORS * len(curves), curves.items(), strict=False):
        points = _POINTS
        if name in noisy and len(curve[0]) > _SMOOTH_POINTS:
            axes.plot(*thinned(curve), color=color, alpha=0.3, linewidth=0.8)
            points = _SMOOTH_POINTS
        marker = "o" if len(curve[0]) <= _DOTS else ""
        axes.plot(*thinned(curve, points), color=color, label=name, linewidth=1.5, marker=marker, markersize=4)
    _dress(axes, label, legend=len(curves) > 1)
    png = io.BytesIO()
    figure.savefig(png, format="png", transparent=True)
    return png.getvalue()


def _dress(axes: Axes, label: str, legend: bool) -> None:
    axes.set_xlabel("samples", color=_GRAY)
    axes.set_ylabel(label, color=_GRAY)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.tick_params(colors=_GRAY, which="both")
    axes.grid(color=_GRAY, alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GRAY)
    axes.margins(x=0.02)
    if legend:
        axes.legend(frameon=False, labelcolor=_GRAY)


def readable(key: str) -> str:
    """`metrics/eval/loss` -> `eval loss`."""
    return key.removeprefix("metrics/").replace("/", " ")


def evaluation_keys(steps: Steps) -> list[str]:
    """Keys of evaluation figures, `metrics/<evaluator>/<name>`, in the order of their first appearance."""
    found: dict[str, Any] = {}
    for step in steps:
        found.update(dict.fromkeys(key for key in step if key.startswith("metrics/") and key.count("/") >= 2))
    return list(found)
