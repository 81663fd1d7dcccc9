"""The plots of one run, by what its metrics.jsonl has."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from maws_composer.reporting.curves import Curve, evaluation_keys, outliers, readable, smoothed, throughput
from maws_composer.reporting.numbers import count
from maws_composer.reporting.plots import Flops, Line, Plot, heat_plot, line_plot
from maws_composer.reporting.run_data import RunData

_MOST = 24  # plots of what nobody here knows
_SPEED = {"throughput/mfu": "MFU: share of the GPUs' nominal peak", "throughput/input_wait": "Waiting for data"}
_PLOTTED = ("run/", "time/", "trainer/", "throughput/", "memory/", "norm/", "lr/", "lr-", "metrics/", "eval/")
_KNOWN = {"batch", "samples", "loss", "seconds", "world_size", "grad_norm", "skipped", "data/replaced_samples"}


def loss_plot(run: RunData, flops: Flops | None) -> Plot | None:
    """Losses of training and evaluations; where the run was started again, and which steps stand out."""
    evaluated = [key for key in evaluation_keys(run.curves.keys) if "loss" in key.lower()]
    lines = [Line("training", run.curves["loss"], flops, is_noisy=True)]
    lines += [Line(readable(key), run.curves[key], flops) for key in evaluated]
    return line_plot("Loss", "loss", [*lines, *_odd_steps(run, flops), _restarts(run, flops)], log=True)


def evaluation_plots(run: RunData, flops: Flops | None) -> Iterator[Plot | None]:
    """Figures of evaluations other than losses: those of one evaluation that are shares of 1 in one plot."""
    groups: dict[tuple[str, bool], list[str]] = {}
    for key in evaluation_keys(run.curves.keys):
        if "loss" not in key.lower():
            values = run.curves[key].finite.values
            is_share = bool(len(values)) and bool(values.min() >= 0 and values.max() <= 1)
            groups.setdefault((key.rpartition("/")[0] if is_share else key, is_share), []).append(key)
    for (group, _), keys in groups.items():
        title = readable(group if len(keys) > 1 else keys[0])
        names = [readable(key.removeprefix(f"{group}/")) for key in keys]
        lines = [Line(name, run.curves[key], flops) for name, key in zip(names, keys, strict=True)]
        yield line_plot(title[:1].upper() + title[1:], "", lines)


def learning_rate_plot(run: RunData, flops: Flops | None) -> Plot | None:
    """One line for each group of parameters; groups with one schedule have one."""
    keys = [key for key in run.curves.keys if key.startswith(("lr/", "lr-"))]
    lines: list[Line] = []
    for key in keys:
        curve = run.curves[key]
        if not any(np.array_equal(curve.values, line.curve.values) for line in lines):
            lines.append(Line(key.removeprefix("lr/").removeprefix("lr-"), curve, flops))
    return line_plot("Learning rate", "", lines)


def speed_plots(run: RunData, flops: Flops | None) -> Iterator[Plot | None]:
    """Throughput, as a callback measured it or else from the time that steps took; MFU and input wait if measured."""
    measured = run.curves["throughput/samples_per_sec"]
    rate = measured if len(measured.samples) else throughput(run.curves)
    yield line_plot("Throughput of all processes", "samples per second", [Line("throughput", rate, flops)])
    for key, title in _SPEED.items():
        yield line_plot(title, "", [Line(title, run.curves[key], flops, is_noisy=True)], share=True)


def memory_plot(run: RunData, flops: Flops | None) -> Plot | None:
    """Of the process that has the most."""
    keys = [key for key in run.curves.keys if key.startswith("memory/")]
    names = [readable(key.removeprefix("memory/").removesuffix("_gib")) for key in keys]
    lines = [Line(name, run.curves[key], flops) for name, key in zip(names, keys, strict=True)]
    return line_plot("Memory of the fullest process", "GiB", lines)


def norm_plots(run: RunData, flops: Flops | None) -> Iterator[Plot | None]:
    """The gradient's norm, and maps of the norms of blocks: one that explodes or dies is a stripe of its own color."""
    norm = Line("gradient norm", run.curves["grad_norm"], flops, is_noisy=True)
    yield line_plot("Gradient norm", "before clipping", [norm], log=True)
    for kind in ("gradient", "parameter"):
        prefix = f"norm/{kind}/"
        keys = [key for key in run.curves.keys if key.startswith(prefix)]
        lines = [Line(key.removeprefix(prefix), run.curves[key], flops) for key in keys]
        yield heat_plot(f"{kind.capitalize()} norms of blocks", "norm", lines)


def other_plots(run: RunData, flops: Flops | None) -> Iterator[Plot | None]:
    """What else was logged, by callbacks of users perhaps."""
    keys = [key for key in run.curves.keys if key not in _KNOWN and not key.startswith(_PLOTTED)]
    for key in keys[:_MOST]:
        yield line_plot(readable(key), "", [Line(readable(key), run.curves[key], flops, is_noisy=True)])


def _odd_steps(run: RunData, flops: Flops | None) -> Iterator[Line]:
    """Where steps were left out, and where the loss stands out though they were not; on the curve, in words how far."""
    steps, losses = run.curves["batch"], run.curves["loss"]
    odd = steps.samples[np.isin(steps.values, outliers(run.curves))]
    for name, symbol, samples in (("left out", "x", run.curves["skipped"].samples), ("stands out", "circle-open", odd)):
        batches = steps.values[np.isin(steps.samples, samples)]
        values = losses.values[np.isin(losses.samples, samples)]
        texts = [f"batch {batch:,.0f} {name}: {value:.4g}" for batch, value in zip(batches, values, strict=False)]
        yield Line(name, _on_the_curve(run, samples), flops, marks=(symbol, texts))


def _restarts(run: RunData, flops: Flops | None) -> Line:
    """Where the starts after the first began."""
    begins = list(run.curves.starts.values())[1:]
    steps = run.curves["batch"]
    samples = (
        np.interp([start.first_batch for start in begins], steps.values, steps.samples) if begins else np.array([])
    )
    texts = [
        f"start {start.number}, on {count(start.world_size, 'process', 'processes')}, from batch {start.first_batch:,}"
        for start in begins
    ]
    return Line("started again", _on_the_curve(run, samples), flops, marks=("triangle-up", texts))


def _on_the_curve(run: RunData, samples: np.ndarray) -> Curve:
    """Points on the line that is drawn of the loss."""
    line = smoothed(run.curves["loss"])
    return Curve(samples, np.interp(samples, *line)) if len(line.samples) else line
