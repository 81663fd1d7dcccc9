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
from maws_composer.reporting.numbers import count, percent

if TYPE_CHECKING:
    from maws_composer.planning.dry_run import DryRun

_WIDTH = 44  # of a column
_PARTS = {
    "weights": "#2f7ed8", "gradients": "#e8702a", "moments": "#2a9d5c", "callbacks": "#3fb6b8",
    "metrics": "#8c6d46", "gathered": "#b45fc4", "activations": "#c9a227", "overhead": "#808080",
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
    """What a dry run found beside what arithmetic gives."""
    sent = (forecast.communication.within_node + forecast.communication.between_nodes) / forecast.passes
    collectives = sum(tried.collectives.values())
    rows = [(f"sent to it in {count(collectives, 'collective')}", tried.total_received, sent)]
    if forecast.run.speed.activation_checkpointing == "none":  # what it keeps, autograd's hooks do not see
        rows.append(("kept for the backward pass", tried.kept, forecast.memory.kept))
    rows.append(("all tensors, at most", tried.peak, forecast.memory.tensors))
    names = max(len(name) for name, *_ in rows)
    return "\n".join(
        [
            f"dry run of {forecast.run.run_name}: a pass of {count(forecast.microbatch, 'image')} and a step of the "
            f"optimizer, on rank 0 of {forecast.cluster.gpus}",
            *(
                f"  {name:<{names}}  {found / 1e9:,.2f} GB, by arithmetic {expected / 1e9:,.2f}"
                for name, found, expected in rows
            ),
        ]
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
        f"{workload.training_flops / 1e9:,.1f} G of training{_recomputed(forecast)}",
    )
    yield "FLOPs of the run", f"{forecast.flops:.3g}"
    yield "steps", f"{forecast.steps:,} of {run.global_train_batch_size:,} images"
    yield "GPUs", f"{_gpus(forecast)}, at {percent(cluster.mfu)} of {peak:g} TFLOP/s ({run.precision})"
    yield "time", f"{_duration(forecast.seconds)} = {forecast.gpu_hours:,.0f} GPU-hours"
    yield "cost", _cost(forecast)
    yield "a step", f"{forecast.seconds / forecast.steps * 1e3:,.0f} ms"
    yield (
        "images/s",
        f"{forecast.images_per_second:,.0f} in all, {forecast.images_per_second / cluster.gpus:,.0f} per GPU",
    )
    yield "reading", _reading(forecast)
    yield (
        "memory per GPU",
        (
            f"{forecast.memory.total / 1e9:.1f} GB of {cluster.gpu.memory / 1e9:.0f}: "
            f"{'fits' if forecast.fits else 'DOES NOT FIT'}; most {forecast.memory.when}"
        ),
    )
    yield from _memory_rows(forecast.memory)
    at_once = checkpoints_at_once(run)
    yield (
        "microbatch",
        (
            f"{forecast.microbatch:,} of the {count(forecast.share, 'image')} of a GPU: "
            f"{count(forecast.passes, 'pass', 'passes')} a step; {_largest(forecast)}"
        ),
    )
    split = f"{count(forecast.replicate, 'replica')} x {count(forecast.shard, 'shard')}"
    yield "sharding", f"{split}; {run.speed.sharding.log_line}"
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
        yield f"  {part}", f"{getattr(memory, part) / 1e9:,.2f} GB"


def _recomputed(forecast: Forecast) -> str:
    return f", and {forecast.recomputed_flops / 1e9:,.1f} G computed again" if forecast.recomputed_flops else ""


def _largest(forecast: Forecast) -> str:
    return f"{forecast.largest_microbatch:,} would fit" if forecast.largest_microbatch else "not even 1 would fit"


def _gpus(forecast: Forecast) -> str:
    return f"{forecast.cluster.gpus} x {forecast.cluster.kind}"


def _duration(seconds: float) -> str:
    return f"{seconds / 86400:,.1f} days" if seconds >= 86400 else f"{seconds / 3600:,.1f} hours"


def _cost(forecast: Forecast) -> str:
    price = forecast.cluster.price
    if price is None:
        return 'unknown; say --price, such as --price "2.5 USD"'
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
    volumes = {"in the node": forecast.communication.within_node, "between nodes": forecast.communication.between_nodes}
    received = " and ".join(f"{volume / 1e9:,.1f} GB {where}" for where, volume in volumes.items() if volume)
    if not received:
        return "none"
    step = forecast.seconds / forecast.steps
    return (
        f"{received} reach a GPU in a step: {forecast.communication_seconds * 1e3:,.0f} ms of {step * 1e3:,.0f}, if "
        "nothing were hidden"
    )
