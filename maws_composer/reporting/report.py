"""`report.html`: one page about a run, in one file, that needs no network and is read in a minute."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from maws_composer.reporting.brought import runs_at
from maws_composer.reporting.evaluations import evaluated, evaluation_pictures, figure_rows
from maws_composer.reporting.health import Finding, judge, verdict
from maws_composer.reporting.page import (
    captioned,
    folded,
    plots,
    section,
    switches,
    table,
    through_time,
    titled,
    verbatim,
    write_page,
)
from maws_composer.reporting.pictures import FOLDER, MOST, find_pictures, spread
from maws_composer.reporting.plots import Flops
from maws_composer.reporting.run_data import RunData, last_part
from maws_composer.reporting.run_plots import (
    evaluation_plots,
    learning_rate_plot,
    loss_plot,
    memory_plot,
    norm_plots,
    other_plots,
    speed_plots,
)
from maws_composer.reporting.timeline import start_rows, timeline

REPORT = "report.html"
LABEL_PLOT = "labels.png"  # beside the shards that streaming_conversion has labelled
_SETTINGS = {
    "stage": "stage", "model.size": "model", "model.image_size": "image size", "precision": "precision",
    "global_train_batch_size": "global batch", "seed": "seed",
}  # fmt: skip


def write_report(run: str | Path, evaluations: str | Path = "evaluations", out: Path | None = None) -> Path:
    """Write a page about a run.

    It is made of what is in the run's folder: `metrics.jsonl`, `config.yaml`, `status.json`, `starts.jsonl`,
    `figures*.json` ({"title", "rows": [{column: value}], and if need be "note"}, or a list of these) and
    `pictures/*.png`; and of `labels.png` beside local training data.

    Args:
        run: its folder, local or in object storage.
        evaluations: where evaluate.py left results of the run, if it did.
        out: the page. Default: `report.html` in a local run's folder; of a run that lives elsewhere, `<run>.html` here.

    Returns:
        The path of the page.

    Raises:
        ConfigError: object storage is not readable, or has no run there.
    """
    with runs_at([run]) as [data]:
        is_here = data.address == str(data.folder)
        page = out or (data.folder / REPORT if is_here else Path(f"{last_part(data.address)}.html"))
        page.parent.mkdir(parents=True, exist_ok=True)
        _write(data, evaluations, page)
    return page


def _write(run: RunData, evaluations: str | Path, page: Path) -> None:
    folder, now = run.folder, datetime.now(timezone.utc)
    flops = Flops(run.flops_per_sample) if run.flops_per_sample else None
    findings = judge(run, now)
    configuration = folder / "config.yaml"
    write_page(
        page,
        run.name,
        [
            f"<p>{html.escape(_in_a_line(run))} As of {now:%Y-%m-%d %H:%M} UTC.</p>",
            health_card(findings),
            switches(flops is not None) if len(run.curves) else "",
            section("Loss and evaluations", plots(loss_plot(run, flops), *evaluation_plots(run, flops))),
            section("Interruptions", plots(timeline(run)), _start_table(run)),
            *picture_sections(folder),
            *(_figures_section(figures) for figures in _figures(folder)),
            section("Evaluations of the encoder", table(figure_rows({run.name: evaluated(run.address, evaluations)}))),
            *evaluation_pictures(run.address, evaluations),
            section("Speed", plots(*speed_plots(run, flops), memory_plot(run, flops))),
            section("Optimization", plots(learning_rate_plot(run, flops), *norm_plots(run, flops))),
            section("Other figures", folded("Show them", plots(*other_plots(run, flops)), is_open=True)),
            label_section(run.config),
            section("Environment", table(environment_rows([run]))),
            section(
                "Configuration",
                folded("All of it", verbatim(configuration.read_text() if configuration.exists() else "")),
            ),
        ],
    )


def health_card(findings: Sequence[Finding]) -> str:
    """The findings, and above them what follows from all."""
    whole = verdict(findings)
    lines = "\n".join(
        f'<dt>{html.escape(what)}</dt><dd class="{mark}"><span class="mark"></span>{html.escape(says)}</dd>'
        for mark, what, says in findings
    )
    says = f": {html.escape(whole.says)}" if whole.says else ""
    head = f'<p><strong class="mark">{whole.what}</strong>{says}</p>'
    return f'<section class="health {whole.mark}" aria-label="health">{head}\n<dl>{lines}</dl></section>'


def picture_sections(folder: Path, prefix: str = "") -> Iterable[str]:
    """A section for each thing that there are pictures of in a run's folder, from the first to the newest."""
    for name, pictures in find_pictures(folder / FOLDER).items():
        yield section(titled(name, prefix), through_time(spread(pictures, MOST)))


def label_section(config: Mapping[str, Any]) -> str:
    """How frequent the classes of the run's images are, if that was drawn beside them."""
    data = config.get("data") or {}
    local = (data.get("train") or {}).get("local")
    path = Path(str(local)) / LABEL_PLOT
    if not local or not path.exists():
        return ""
    caption = (
        "Images that have each class, from the most frequent one on, and labels of an image; labels.txt says more."
    )
    return section("Labels", captioned(path.read_bytes(), caption))


def environment_rows(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """What each run's newest start ran on, a line for each fact; of what is in the configuration, the gist."""
    facts: dict[str, dict[str, Any]] = {}
    for run in runs:
        newest = dict(list(run.starts.values())[-1]) if run.starts else {}
        for key in ("start", "wall_hours"):
            newest.pop(key, None)
        gist = {name: value for key, name in _SETTINGS.items() if (value := run.setting(key)) is not None}
        length = {"length": f"{run.length:,} samples"} if run.length is not None else {}
        if "time" in newest:
            newest["time"] = str(newest["time"])[:16].replace("T", " ")
        if "training_flops" in newest:
            newest["training_flops"] = f"{newest['training_flops']:.3g}"
        renamed = {"training_flops": "FLOPs per sample", "world_size": "processes", "time": "newest start (UTC)"}
        facts[run.name] = {**gist, **length, **{renamed.get(key, key): value for key, value in newest.items()}}
    return [{name: str(value) for name, value in row.items()} for row in figure_rows(facts)]


def _in_a_line(run: RunData) -> str:
    """`mae of vit_b at 224 px, fp32, on NVIDIA H100.`"""
    newest = list(run.starts.values())[-1] if run.starts else {}
    size, pixels = run.setting("model.size"), run.setting("model.image_size")
    parts = [
        f"Stage {run.stage}" if run.stage else "",
        f"model {size}" + (f" at {pixels} px" if pixels else "") if size else "",
        str(run.config.get("precision") or ""),
        f"on {newest['device']}" if "device" in newest else "",
    ]
    return ", ".join(part for part in parts if part) + "." if any(parts) else ""


def _start_table(run: RunData) -> str:
    rows = start_rows(run)
    return folded(f"All {len(rows)} starts", table(rows), is_open=len(rows) <= 12) if len(rows) > 1 else ""


def _figures(folder: Path) -> Iterable[Mapping[str, Any]]:
    for path in sorted(folder.glob("figures*.json")):
        content = json.loads(path.read_text())
        yield from content if isinstance(content, list) else [content]


def _figures_section(figures: Mapping[str, Any]) -> str:
    return section(str(figures["title"]), table(figures["rows"], note=str(figures.get("note") or "")))
