"""Interactive plots of curves: plotly draws them, the page's script moves them between samples and FLOPs."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from plotly import graph_objects as go
from plotly.colors import sample_colorscale

from maws_composer.reporting.curves import Curve, outline, smoothed

COLORS = ("#2f7ed8", "#d9601a", "#1f9254", "#a855b8", "#b0862a", "#d0486f")  # 3 : 1 or more on white and on black
GRAY = "#808080"
_FEW = 60  # points, up to which each is marked
_MANY = 8  # lines, from which on their colors are steps of one scale


@dataclass(frozen=True)
class Flops:
    """Training FLOPs of a run at a number of samples: `before + per_sample * samples`.

    Attributes:
        per_sample: of training on one sample.
        before: of the run whose weights this one began with.
    """

    per_sample: float
    before: float = 0.0


@dataclass(frozen=True)
class Line:
    """A curve of a plot.

    Attributes:
        name: in the legend.
        curve: against samples.
        flops: of its run; None where they are not known.
        run: of a page about several, which it can be hidden with.
        is_noisy: medians are drawn, and the outline faintly behind them.
        marks: a symbol and what it says of each point: no line, only these.
        color: of the line; else the next one.
    """

    name: str
    curve: Curve
    flops: Flops | None = None
    run: str = ""
    is_noisy: bool = False
    marks: tuple[str, Sequence[str]] | None = None
    color: str = ""


class Plot(NamedTuple):
    """A figure, what is above it, and what it shows in words, for those who do not see it."""

    title: str
    description: str
    figure: go.Figure


def line_plot(title: str, unit: str, lines: Sequence[Line], log: bool = False, share: bool = False) -> Plot | None:
    """One plot of several lines against samples; None where there is no point.

    Args:
        title: above it.
        unit: of the vertical axis.
        lines: in the order of the legend.
        log: the vertical axis, which begins linear and without spikes, can be switched.
        share: the values are shares of 1, to be read as per cent.
    """
    lines = [line for line in lines if len(line.curve.finite.samples)]
    if not lines:
        return None
    figure = go.Figure(layout=frame("samples", unit))
    figure.update_layout(hovermode="x unified", showlegend=len(lines) > 1, meta={"log": log})
    figure.update_xaxes(tickformat="~s", hoverformat=".4s")
    figure.update_yaxes(hoverformat=".4g", exponentformat="power")
    drawn = [line for line in lines if line.marks is None]
    scale = sample_colorscale("Viridis", np.linspace(0.15, 0.85, len(drawn))) if len(drawn) >= _MANY else COLORS
    for color, line in zip(cycle(scale), drawn, strict=False):
        figure.add_traces(_traces(line, line.color or color))
    figure.add_traces([_marks(line, COLORS[1]) for line in lines if line.marks is not None])
    if share:
        figure.update_yaxes(tickformat="~%", rangemode="tozero")
    if log:
        figure.update_yaxes(range=_without_spikes(drawn))
    return Plot(title, f"{title}: " + "; ".join(_in_words(line) for line in drawn), figure)


def heat_plot(title: str, unit: str, lines: Sequence[Line]) -> Plot | None:
    """Many positive curves as rows of one map, colored by the logarithm of the value; None where there is no point."""
    thinned = [(line, smoothed(line.curve)) for line in lines if len(line.curve.finite.samples)]
    if not thinned:
        return None
    samples = max((curve.samples for _, curve in thinned), key=len)
    rows = [np.interp(samples, *curve) for _, curve in thinned]
    values = np.log10(np.maximum(np.stack(rows), 1e-12))
    trace = go.Heatmap(
        x=_rounded(samples),
        y=[html.escape(line.name) for line, _ in thinned],
        z=[_rounded(row) for row in values],
        customdata=[_rounded(row) for row in rows],
        colorscale="Viridis",
        colorbar={"title": {"text": f"log10 {unit}", "side": "top"}, "thickness": 12},
        hovertemplate="%{y}, at %{x}: %{customdata:.4g}<extra></extra>",
        meta=_meta(thinned[0][0]),
    )
    figure = go.Figure(trace, layout=frame("samples", "", height=max(240, 110 + 15 * len(thinned))))
    figure.update_xaxes(tickformat="~s", hoverformat=".4s")
    figure.update_yaxes(type="category", nticks=len(thinned))
    return Plot(title, f"{title}: " + "; ".join(_in_words(line) for line, _ in thinned), figure)


def _traces(line: Line, color: str) -> list[go.Scatter]:
    curve = smoothed(line.curve) if line.is_noisy else outline(line.curve)
    is_dotted = len(curve.samples) <= _FEW
    trace = go.Scatter(
        x=_rounded(curve.samples),
        y=_rounded(curve.values),
        name=html.escape(line.name),
        mode="lines+markers" if is_dotted else "lines",
        line={"color": color, "width": 2},
        marker={"size": 5},
        legendgroup=line.name,
        meta=_meta(line),
    )
    if not line.is_noisy or len(curve.samples) == len(line.curve.samples):
        return [trace]
    behind = outline(line.curve)
    faint = go.Scatter(
        x=_rounded(behind.samples),
        y=_rounded(behind.values),
        mode="lines",
        line={"color": color, "width": 1},
        opacity=0.35,
        legendgroup=line.name,
        showlegend=False,
        hoverinfo="skip",
        meta=_meta(line),
    )
    return [faint, trace]


def _marks(line: Line, color: str) -> go.Scatter:
    assert line.marks is not None
    symbol, texts = line.marks
    return go.Scatter(
        x=_rounded(line.curve.samples),
        y=_rounded(line.curve.values),
        name=html.escape(line.name),
        mode="markers",
        marker={"symbol": symbol, "size": 10, "color": color},
        text=[html.escape(text) for text in texts],
        hovertemplate="%{text}<extra></extra>",
        legendgroup=line.name,
        meta=_meta(line),
    )


def frame(horizontal: str, vertical: str, height: int = 320) -> dict[str, Any]:
    """The layout of all plots; the page's style has its text and lines follow light and dark."""
    axis = {"showline": True, "linecolor": GRAY, "gridcolor": GRAY, "zeroline": False, "automargin": True}
    return {
        "template": "none",
        "height": height,
        "margin": {"l": 8, "r": 34, "t": 8, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": GRAY},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "orientation": "v"},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "xaxis": {**axis, "title": {"text": horizontal}, "nticks": 6},
        "yaxis": {**axis, "title": {"text": vertical}, "nticks": 7},
    }


def _without_spikes(lines: Sequence[Line]) -> list[float]:
    """From the lowest to the highest value that is drawn as a line, and a little room."""
    values = np.concatenate(
        [smoothed(line.curve).values if line.is_noisy else line.curve.finite.values for line in lines]
    )
    low, high = float(values.min()), float(values.max())
    room = 0.06 * (high - low or abs(high) or 1.0)
    return [low - room if low - room > 0 or low <= 0 else 0.9 * low, high + room]


def _meta(line: Line) -> dict[str, Any]:
    flops = line.flops
    known = {"flops": {"before": flops.before, "per_sample": flops.per_sample}} if flops else {}
    return {"run": line.run, **known}


def _in_words(line: Line) -> str:
    """`training from 1.1 to 0.46, lowest 0.45`."""
    values = smoothed(line.curve).values
    return (
        f"{line.name} from {values[0]:.4g} to {values[-1]:.4g}, lowest {values.min():.4g}, highest {values.max():.4g}"
    )


def _rounded(values: np.ndarray) -> list[float]:
    """To six digits: more are not to be seen, and make pages large."""
    return [float(f"{value:.6g}") for value in values]
