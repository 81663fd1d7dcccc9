"""Several runs on one page: their figures beside each other, their curves over each other."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from itertools import cycle
from pathlib import Path
from typing import Any

from maws_composer.config.compare import changed_keys, leaves
from maws_composer.config.secrecy import mask
from maws_composer.reporting.brought import runs_at
from maws_composer.reporting.curves import evaluation_keys, readable, throughput
from maws_composer.reporting.evaluations import evaluated, evaluation_pictures, figure_rows
from maws_composer.reporting.health import judge, verdict
from maws_composer.reporting.numbers import percent
from maws_composer.reporting.page import folded, plots, section, switches, table, write_page
from maws_composer.reporting.plots import COLORS, Flops, Line, Plot, line_plot
from maws_composer.reporting.report import environment_rows, label_section, picture_sections
from maws_composer.reporting.run_data import RunData, place


def write_comparison(addresses: Sequence[str | Path], evaluations: str | Path, out: Path) -> Path:
    """Write a page about several runs, in one file, that needs no network.

    Curves are drawn over each other for runs of one stage; losses of two stages do not compare.

    Args:
        addresses: folders of runs, local or in object storage.
        evaluations: where evaluate.py left results of them, if it did.
        out: the page.

    Raises:
        ConfigError: object storage is not readable, or has no run there.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with runs_at(addresses) as runs:
        _write(_distinct(runs), evaluations, out)
    return out


def _write(runs: Sequence[RunData], evaluations: str | Path, out: Path) -> None:
    flops, now = _flops(runs), datetime.now(timezone.utc)
    stages = [[run for run in runs if run.stage == stage] for stage in dict.fromkeys(run.stage for run in runs)]
    figures = {run.name: {**_last(run, flops[run.name]), **evaluated(run.address, evaluations)} for run in runs}
    write_page(
        out,
        ", ".join(run.name for run in runs),
        [
            f"<p>{len(runs)} runs, as of {now:%Y-%m-%d %H:%M} UTC.</p>",
            section("Health", table([_health(run, now) for run in runs])),
            switches(any(flops.values()), [run.name for run in runs]),
            *(_curves(group, runs, flops, alone=len(stages) == 1) for group in stages),
            section("Final figures", table(figure_rows(figures))),
            *(part for group in stages for part in _differences(group, alone=len(stages) == 1)),
            *dict.fromkeys(label_section(run.config) for run in runs),
            *(part for run in runs for part in picture_sections(run.folder, f"{run.name}: ")),
            *(part for run in runs for part in evaluation_pictures(run.address, evaluations, f"{run.name}: ")),
            section("Environment", table(environment_rows(runs))),
        ],
    )  # fmt: skip


def _distinct(runs: Sequence[RunData]) -> list[RunData]:
    """The runs, named by where they live where names are not enough to tell them apart."""
    if len({run.name for run in runs}) == len(runs):
        return list(runs)
    return [replace(run, name=run.address) for run in runs]


def _flops(runs: Sequence[RunData]) -> dict[str, Flops | None]:
    """Name of a run -> its FLOPs, those of the run that it began with included, if that is one of `runs`."""
    by_place = {place(run.address): run for run in runs}
    return {run.name: _flops_of(run, by_place) for run in runs}


def _flops_of(run: RunData, by_place: Mapping[str, RunData], above: tuple[str, ...] = ()) -> Flops | None:
    if run.flops_per_sample is None:
        return None
    parent = _parent(run, by_place)
    if parent is None or place(parent.address) in above:
        return Flops(run.flops_per_sample)
    first = _flops_of(parent, by_place, (*above, place(run.address)))
    if first is None:
        return None
    return Flops(run.flops_per_sample, first.before + first.per_sample * parent.curves.samples)


def _parent(run: RunData, by_place: Mapping[str, RunData]) -> RunData | None:
    """The run whose weights this one began with."""
    source = run.config.get("initialize_from")
    return by_place.get(place(str(source))) if source else None


def _curves(group: Sequence[RunData], runs: Sequence[RunData], flops: Mapping[str, Flops | None], alone: bool) -> str:
    heading = "Curves" if alone else f"Curves of {group[0].stage}"
    return section(heading, _note(group, runs, flops), plots(*_plots(group, flops)))


def _note(group: Sequence[RunData], runs: Sequence[RunData], flops: Mapping[str, Flops | None]) -> str:
    """What is counted in the FLOPs of runs that began with another one's weights."""
    by_place = {place(run.address): run for run in runs}
    parents = {run.name: parent.name for run in group if flops[run.name] and (parent := _parent(run, by_place))}
    says = "; ".join(f"those of {name} include {parent}'s" for name, parent in parents.items())
    return f"<p>Training FLOPs: {html.escape(says)}.</p>" if says else ""


def _health(run: RunData, now: datetime) -> dict[str, Any]:
    whole = verdict(findings := judge(run, now))
    state = next((finding.says for finding in findings if finding.what == "state"), "not known")
    done = f"{run.curves.samples:,}" + (f" ({percent(run.curves.samples / run.length)})" if run.length else "")
    return {
        "run": run.name,
        "health": whole.what,
        "because": whole.says,
        "state": state.partition(";")[0],
        "samples": done,
        "loss": run.curves.last("loss"),
    }


def _last(run: RunData, flops: Flops | None) -> dict[str, Any]:
    keys = ["loss", *evaluation_keys(run.curves.keys)]
    known = {readable(key): run.curves.last(key) for key in keys}
    spent = flops and flops.before + flops.per_sample * run.curves.samples
    return {
        "samples": run.curves.samples,
        **({"training FLOPs": f"{spent:.3g}"} if spent else {}),
        **{name: value for name, value in known.items() if value is not None},
    }


def _plots(runs: Sequence[RunData], flops: Mapping[str, Flops | None]) -> Iterator[Plot | None]:
    keys = dict.fromkeys(key for run in runs for key in ("loss", *evaluation_keys(run.curves.keys)))
    for key in keys:
        lines = [
            Line(run.name, run.curves[key], flops[run.name], run.name, is_noisy=key == "loss", color=color)
            for run, color in zip(runs, cycle(COLORS), strict=False)
        ]
        name = "training loss" if key == "loss" else readable(key)
        yield line_plot(name[:1].upper() + name[1:], "", lines, log="loss" in key.lower())
    rates = [
        Line(run.name, throughput(run.curves), flops[run.name], run.name, color=color)
        for run, color in zip(runs, cycle(COLORS), strict=False)
    ]
    yield line_plot("Throughput of all processes", "samples per second", rates)


def _differences(runs: Sequence[RunData], alone: bool) -> Iterator[str]:
    """Settings that are not the same in all of the runs: those that affect results, and the others."""
    if len(runs) < 2:
        return
    first, *others = (run.config for run in runs)
    settings = {run.name: leaves(mask(run.config)) for run in runs}
    affecting = dict.fromkeys(key for other in others for key in changed_keys(first, other))
    every = dict.fromkeys(key for leaf in settings.values() for key in leaf)
    rest = [
        key for key in every if key not in affecting and len({str(leaf.get(key)) for leaf in settings.values()}) > 1
    ]
    heading = "What is set differently" + ("" if alone else f" among the runs of {runs[0].stage}")
    yield section(
        heading,
        table(_rows(affecting, settings)) or "<p>Nothing that affects results.</p>",
        folded("What does not affect results", table(_rows(rest, settings))),
    )


def _rows(keys: Sequence[str] | Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{"": key, **{name: str(leaf.get(key, "")) for name, leaf in settings.items()}} for key in keys]
