"""When a run was trained, on how many processes, and what was lost: a bar for each stretch of time, as high as it is
wide in processes, so that its area is what it cost."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from plotly import graph_objects as go

from maws_composer.reporting.curves import Start, say_processes
from maws_composer.reporting.numbers import count, duration
from maws_composer.reporting.plots import COLORS, GRAY, Plot, frame
from maws_composer.reporting.run_data import RunData

_KINDS = {"training": (COLORS[0], ""), "getting started": (GRAY, ""), "lost: done again": (COLORS[1], "/")}
_FEW = 6  # processes, below which plotly would mark halves
_LEAST = 10 / 3600  # hours that the axis shows


class Stretch(NamedTuple):
    """A stretch of a start, in hours that there were processes."""

    kind: str
    begin: float
    end: float
    start: Start


def start_rows(run: RunData) -> list[dict[str, Any]]:
    """A row of a table for each start that made a step."""
    rows, lost = [], 0
    for start in run.curves.starts.values():
        noted = run.starts.get(start.number, {})
        row: dict[str, Any] = {"start": start.number}
        row |= {"began (UTC)": str(noted["time"])[:16].replace("T", " ")} if "time" in noted else {}
        row |= {
            "processes": start.world_size,
            "batches": f"{start.first_batch:,} to {start.last_batch:,}",
            "to the first step": duration(start.seconds_to_first_step),
            "training": duration(3600 * (start.last_hour - start.first_hour)),
            "steps lost before": start.lost_steps - lost,
        }
        lost = start.lost_steps
        rows.append(row)
    return rows


def timeline(run: RunData) -> Plot | None:
    """The plot; None where no start is known."""
    stretches = list(_stretches(run))
    if not stretches:
        return None
    clocks = {stretch.start.number: _clock(run, stretch.start) for stretch in stretches}
    has_clock = None not in clocks.values()
    figure = go.Figure(layout=frame("UTC" if has_clock else "hours that there were processes", "processes", height=240))
    figure.update_layout(barmode="overlay")
    figure.update_xaxes(range=_ends(stretches, clocks if has_clock else None))
    most = max(stretch.start.world_size for stretch in stretches)
    figure.update_yaxes(rangemode="tozero", dtick=1 if most < _FEW else None)
    for kind, (color, pattern) in _KINDS.items():
        chosen = [stretch for stretch in stretches if stretch.kind == kind]
        if chosen:
            figure.add_trace(_bars(kind, color, pattern, chosen, clocks if has_clock else None))
    return Plot("When it was trained, on how many processes", _in_words(run), figure)


def _stretches(run: RunData) -> Iterator[Stretch]:
    for start in run.curves.starts.values():
        yield Stretch("getting started", max(start.began, 0.0), start.first_hour, start)
        at = start.first_hour
        for begin, end in _lost_within(run, start):
            if begin > at:
                yield Stretch("training", at, begin, start)
            yield Stretch("lost: done again", begin, end, start)
            at = end
        if start.last_hour > at:
            yield Stretch("training", at, start.last_hour, start)


def _lost_within(run: RunData, start: Start) -> list[tuple[float, float]]:
    """Which hours of the start's training were lost, in order, without overlaps."""
    spans: list[tuple[float, float]] = []
    for begin, end in sorted(run.curves.lost):
        begin, end = max(begin, spans[-1][1] if spans else start.first_hour), min(end, start.last_hour)
        if begin < end:
            spans.append((begin, end))
    return spans


def _clock(run: RunData, start: Start) -> datetime | None:
    """The time of day at the run's hour 0, as this start has it."""
    noted = run.starts.get(start.number, {})
    try:
        return datetime.fromisoformat(noted["time"]) - timedelta(hours=noted["wall_hours"])
    except (KeyError, TypeError, ValueError):
        return None


def _ends(stretches: list[Stretch], clocks: dict[int, datetime | None] | None) -> list[Any]:
    """Of the horizontal axis: plotly's own are far apart where a run is a minute long."""
    begin, end = stretches[0], stretches[-1]
    room = max(0.02 * (end.end - begin.begin), _LEAST / 2)
    return [_at(begin.begin - room, begin.start, clocks), _at(end.end + room, end.start, clocks)]


def _at(hour: float, start: Start, clocks: dict[int, datetime | None] | None) -> Any:
    """An hour of the run as the axis has it; plotly knows no time zones."""
    if clocks is None:
        return hour
    return ((clocks[start.number] or datetime.min) + timedelta(hours=hour)).replace(tzinfo=None).isoformat()


def _bars(
    kind: str, color: str, pattern: str, stretches: list[Stretch], clocks: dict[int, datetime | None] | None
) -> go.Bar:
    widths = [stretch.end - stretch.begin for stretch in stretches]
    middles = [_at((stretch.begin + stretch.end) / 2, stretch.start, clocks) for stretch in stretches]
    if clocks is not None:
        widths = [3.6e6 * width for width in widths]  # plotly's dates are as wide as they have milliseconds
    return go.Bar(
        x=middles,
        width=widths,
        y=[stretch.start.world_size for stretch in stretches],
        name=kind,
        marker={
            "color": color,
            "pattern": {"shape": pattern, "bgcolor": color, "fgcolor": "#fff"},
            "line": {"width": 0},
        },
        text=[
            f"start {start.number}, {kind}: {duration(3600 * (end - begin))} on "
            f"{count(start.world_size, 'process', 'processes')}"
            for kind, begin, end, start in stretches
        ],
        textposition="none",
        hovertemplate="%{text}<extra></extra>",
    )


def _in_words(run: RunData) -> str:
    lost = run.curves.lost_steps
    starts = list(run.curves.starts.values())
    return f"{count(len(starts), 'start')}, on {say_processes(starts)}; {count(lost, 'step')} done again"
