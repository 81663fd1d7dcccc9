"""Forecasts as a person compares them: a table, a column for each, and a picture."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from maws_composer.checkpoints.retention import checkpoints_at_once
from maws_composer.planning.forecast import Forecast
from maws_composer.planning.memory import MemoryEstimate
from maws_composer.planning.world_sizes import say_world_sizes

if TYPE_CHECKING:
    from maws_composer.planning.dry_run import DryRun

_WIDTH = 44  # of a column
_PARTS = {
    "weights": "#2f7ed8", "gradients": "#e8702a", "moments": "#2a9d5c", "callbacks": "#3fb6b8",
    "gathered": "#b45fc4", "activations": "#c9a227", "overhead": "#808080",
}  # fmt: skip


def describe(forecasts: Sequence[Forecast]) -> str:
    """The table; runs are named above their columns where there are several."""
    columns = [dict(_rows(forecast)) for forecast in forecasts]
    if len(forecasts) > 1:
        columns = [{"": forecast.run.run_name, **rows} for forecast, rows in zip(forecasts, columns, strict=True)]
    names = max(map(len, columns[0]))
    lines: list[str] = []
    for name in columns[0]:
        cells = [textwrap.wrap(rows[name], _WIDTH if len(columns) > 1 else 100) for rows in columns]
        for number, parts in enumerate(zip_longest(*cells, fillvalue="")):
            padded = "  ".join(f"{part:<{_WIDTH}}" for part in parts)
            lines.append(f"{'' if number else name:<{names}}  {padded}".rstrip())
    return "\n".join(lines)


def compare(forecast: Forecast, tried: DryRun) -> str:
    """What a dry run found beside what arithmetic gives, in one sentence."""
    expected = (forecast.communication.within_node + forecast.communication.between_nodes) / forecast.passes
    number = sum(tried.collectives.values())
    return (
        f"dry run of {forecast.run.run_name}: {forecast.microbatch} images went forward, backward and into a step of "
        f"rank 0 of {forecast.cluster.gpus}; {number} collectives bring it {tried.total_received / 1e9:.2f} GB "
        f"(by arithmetic {expected / 1e9:.2f}), {tried.kept / 1e9:.2f} GB are kept for the backward pass "
        f"(by arithmetic {forecast.memory.activations / 1e9:.2f}), and its tensors take {tried.peak / 1e9:.2f} GB at "
        f"most (by arithmetic {forecast.memory.tensors / 1e9:.2f})"
    )


def draw(forecasts: Sequence[Forecast], path: Path) -> None:
    """Memory of a GPU and what it is for, and GPU-hours, a bar for each run; the ending of `path` says the format."""
    figure = Figure(figsize=(10, 1.6 + 0.6 * len(forecasts)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    memory, hours = figure.subplots(1, 2, sharey=True)
    names = [f"{forecast.run.run_name}\n{_gpus(forecast)}" for forecast in forecasts]
    left = [0.0] * len(forecasts)
    for part, color in _PARTS.items():
        widths = [getattr(forecast.memory, part) / 1e9 for forecast in forecasts]
        memory.barh(names, widths, left=left, color=color, label=part)
        left = [begin + width for begin, width in zip(left, widths, strict=True)]
    for row, forecast in enumerate(forecasts):
        memory.vlines(forecast.cluster.gpu.memory / 1e9, row - 0.45, row + 0.45, colors="black", linestyles="dotted")
    memory.set_xlabel("GB of a GPU; dotted: what it has")
    memory.legend(frameon=False, fontsize="small", ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    memory.invert_yaxis()
    hours.barh(names, [forecast.gpu_hours for forecast in forecasts], color="#2f7ed8")
    hours.set_xlabel("GPU-hours")
    figure.savefig(path)


def _rows(forecast: Forecast) -> Iterable[tuple[str, str]]:
    run, cluster, workload = forecast.run, forecast.cluster, forecast.workload
    peak = cluster.gpu.peak[run.precision]
    yield "parameters", f"{workload.parameters.total:,} ({workload.parameters.trainable:,} trained)"
    yield (
        "FLOPs per image",
        (f"{workload.training_flops / 1e9:,.1f} G, training (+ {forecast.recomputed_flops / 1e9:,.1f} G recomputed)"),
    )
    yield "FLOPs of the run", f"{forecast.flops:.3g}"
    yield "steps", f"{forecast.steps:,} of {run.global_train_batch_size:,} images"
    yield "GPUs", f"{_gpus(forecast)}, {cluster.mfu:.0%} of {peak:g} TFLOP/s ({run.precision})"
    yield "time", f"{_duration(forecast.seconds)} = {forecast.gpu_hours:,.0f} GPU-hours"
    yield "cost", _cost(forecast)
    yield "a step", f"{forecast.seconds / forecast.steps * 1e3:,.0f} ms"
    yield "images/s", f"{forecast.images_per_second:,.0f}, {forecast.images_per_second / cluster.gpus:,.0f} per GPU"
    yield "reading", _reading(forecast)
    yield (
        "memory per GPU",
        (
            f"{forecast.memory.total / 1e9:.1f} GB of {cluster.gpu.memory / 1e9:.0f}: "
            f"{'fits' if forecast.fits else 'DOES NOT FIT'}"
        ),
    )
    yield from _memory_rows(forecast.memory)
    at_once = checkpoints_at_once(run)
    passes = "1 pass" if forecast.passes == 1 else f"{forecast.passes} passes"
    yield (
        "microbatch",
        (
            f"{forecast.microbatch} of the {forecast.share} images of a GPU: {passes} a step; "
            f"{forecast.largest_microbatch} would fit"
        ),
    )
    yield "sharding", f"{forecast.replicate} replicas x {forecast.shard} shards; {run.speed.sharding.log_line}"
    yield "communication", _communication(forecast)
    yield (
        "a checkpoint",
        (
            f"{forecast.checkpoint / 1e9:,.1f} GB every {run.save_interval}; "
            f"{at_once} lie there at once in the end: {forecast.checkpoint * at_once / 1e9:,.1f} GB"
        ),
    )
    yield "may be resumed on", say_world_sizes(forecast.possible, cluster.gpus_per_node)


def _memory_rows(memory: MemoryEstimate) -> Iterable[tuple[str, str]]:
    for part in _PARTS:
        yield f"  {part}", f"{getattr(memory, part) / 1e9:.1f} GB"


def _gpus(forecast: Forecast) -> str:
    return f"{forecast.cluster.gpus} x {forecast.cluster.kind}"


def _duration(seconds: float) -> str:
    return f"{seconds / 86400:,.1f} days" if seconds >= 86400 else f"{seconds / 3600:,.1f} hours"


def _cost(forecast: Forecast) -> str:
    price = forecast.cluster.price
    if price is None:
        return "unknown; say --price"
    return f"{forecast.gpu_hours * price.amount:,.0f} {price.unit or '(in the unit of --price)'}"


def _reading(forecast: Forecast) -> str:
    if forecast.run.model.get("image_embeddings"):
        return "of embeddings, little"
    rate = forecast.images_per_second / forecast.run.data.train.repeated_augmentation * forecast.cluster.image_bytes
    return (
        f"{rate / 1e9:,.2f} GB/s, {rate / forecast.cluster.nodes / 1e9:,.2f} per node, "
        f"at {forecast.cluster.image_bytes / 1e3:,.0f} kB an image"
    )


def _communication(forecast: Forecast) -> str:
    volume, step = forecast.communication, forecast.seconds / forecast.steps
    return (
        f"{volume.within_node / 1e9:,.1f} GB in the node and {volume.between_nodes / 1e9:,.1f} GB between nodes reach "
        f"a GPU in a step: {forecast.communication_seconds * 1e3:,.0f} ms of {step * 1e3:,.0f}, if nothing were hidden"
    )
