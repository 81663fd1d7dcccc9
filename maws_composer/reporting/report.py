"""`report.html`: one page about a run, in one file, that needs no network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from maws_composer.checkpoints.run_folder import RunFolder, send
from maws_composer.outages import insist
from maws_composer.reporting.curves import draw_curves, evaluation_keys, readable, series
from maws_composer.reporting.evaluations import evaluated, evaluation_pictures, figure_rows
from maws_composer.reporting.metrics_file import FILE, Steps, read_metrics
from maws_composer.reporting.page import captioned, folded, image, section, table, write_page
from maws_composer.reporting.pictures import FOLDER, Picture, find_pictures
from maws_composer.resilience.progress import limited_wait

REPORT = "report.html"
LABEL_PLOT = "labels.png"  # beside the shards that streaming_conversion has labelled
_CURVES = {"loss": "Loss", "learning_rate": "Learning rate"}  # file in pictures/ -> heading
_FACTS = {
    "stage": "stage", "model.size": "size", "model.image_size": "image size", "precision": "precision",
    "global_train_batch_size": "global batch", "max_duration": "length", "seed": "seed",
}  # fmt: skip


def write_report(run_folder: str | Path, evaluations: str | Path = "evaluations") -> Path:
    """Write `report.html` into a local run folder, and its curves into `pictures/`.

    It is made of what is there: `metrics.jsonl`, `config.yaml`, `figures*.json` ({"title", "rows": [{column: value}],
    and if need be "note"}, or a list of these) and `pictures/*.png`; and of `labels.png` beside local training data.

    Args:
        run_folder: of the run.
        evaluations: where evaluate.py left results of the run, if it did.

    Returns:
        The path of the report.
    """
    folder = Path(run_folder)
    steps = read_metrics(folder) if (folder / FILE).exists() else []
    text = (folder / "config.yaml").read_text() if (folder / "config.yaml").exists() else ""
    config = yaml.safe_load(text) or {}
    title = str(config.get("run_name") or folder.name)
    path = folder / REPORT
    write_page(
        path,
        title,
        [
            section("The run", _facts(config, steps)),
            section("Starts", _starts(steps)),
            *(_picture_section(picture) for picture in _other_pictures(folder)),
            *_curve_sections(folder, steps),
            *(_figures_section(figures) for figures in _figures(folder)),
            section("Evaluations", table(figure_rows({title: evaluated(folder, evaluations)}))),
            *evaluation_pictures(folder, evaluations),
            label_section(config),
            folded("Configuration", text),
        ],
    )
    return path


def publish_report(folder: RunFolder, patience: float) -> None:
    """Write the report, and copy it and what it was made of to where the run lives.

    Args:
        folder: of the run.
        patience: seconds that object storage may be away.
    """
    write_report(folder.local)
    pictures = [f"{FOLDER}/{path.name}" for path in sorted((folder.local / FOLDER).glob("*"))]
    with limited_wait("sending the report"):
        insist(lambda: send(folder, REPORT, FILE, *pictures), REPORT, patience)


def label_section(config: Mapping[str, Any]) -> str:
    """How frequent the classes of the run's images are, if that was drawn beside them."""
    local = _lookup(config, "data.train.local")
    path = Path(str(local)) / LABEL_PLOT
    if not local or not path.exists():
        return ""
    caption = (
        "Images that have each class, from the most frequent one on, and labels of an image; labels.txt says more."
    )
    return section("Labels", captioned(path.read_bytes(), caption))


def _facts(config: Mapping[str, Any], steps: Steps) -> str:
    facts: dict[str, Any] = {name: _lookup(config, key) for key, name in _FACTS.items()}
    if steps:
        last = steps[-1]
        facts["done"] = f"{last['samples']:,} samples in {last['batch']:,} batches"
        facts["time on training"] = _duration(last.get("seconds"))
        facts["GPU-hours, all in all"] = _hours(last.get("run/gpu_hours"))
        facts["processes"] = _world_sizes(steps)
        facts |= {readable(key): _first_and_last(steps, key) for key in ("loss", *evaluation_keys(steps))}
    return table([{"": name, " ": str(value)} for name, value in facts.items() if value not in (None, "")], head=False)


def _lookup(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _hours(hours: float | None) -> str:
    return "" if hours is None else f"{hours:,.2f}"


def _starts(steps: Steps) -> str:
    """A line for each start of an interrupted run; those whose steps were all done again have left none."""
    rows, lost = [], 0
    known = [step for step in steps if "run/start" in step]
    for start, group in groupby(known, key=lambda step: step["run/start"]):
        done = list(group)
        first, last = done[0], done[-1]
        before, lost = lost, first.get("run/lost_steps", lost)
        rows.append(
            {
                "start": start,
                "processes": first["world_size"],
                "batches": f"{first['batch']:,} to {last['batch']:,}",
                "to the first step": _duration(first.get("run/seconds_to_first_step")),
                "steps lost before": lost - before,
            }
        )
    return table(rows) if len(rows) > 1 else ""


def _world_sizes(steps: Steps) -> str:
    """`2 (batches 1 to 17), 1 (batches 18 to 40)`."""
    known = [step for step in steps if "world_size" in step]
    spans = [(size, list(run)) for size, run in groupby(known, key=lambda step: step["world_size"])]
    if len(spans) == 1:
        return str(spans[0][0])
    return ", ".join(f"{size} (batches {run[0]['batch']:,} to {run[-1]['batch']:,})" for size, run in spans)


def _first_and_last(steps: Steps, key: str) -> str:
    _, values = series(steps, key)
    return f"{values[0]:.4g} → {values[-1]:.4g}" if len(values) > 1 else "".join(f"{value:.4g}" for value in values)


def _curve_sections(folder: Path, steps: Steps) -> Iterable[str]:
    evaluations = {key: series(steps, key) for key in evaluation_keys(steps)}
    losses = {readable(key): curve for key, curve in evaluations.items() if "loss" in key.lower()}
    training = {"training": series(steps, "loss")}
    plots = {"loss": ({**training, **losses}, ["training"], "loss")}
    for key in [key for step in steps[:1] for key in step if key.startswith(("lr/", "lr-"))][:1]:
        plots["learning_rate"] = ({"learning rate": series(steps, key)}, [], "learning rate")
    for key, curve in evaluations.items():
        if readable(key) not in losses:
            plots[key.replace("/", "-")] = ({readable(key): curve}, [], readable(key))
    for name, (curves, noisy, label) in plots.items():
        if not any(len(samples) for samples, _ in curves.values()):
            continue
        path = folder / FOLDER / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png := draw_curves(curves, noisy, label))
        path.with_suffix(".json").write_text(json.dumps({"name": name, "curve": True}))
        yield section(_CURVES.get(name, label), image(png, f"{label} against samples"))


def _other_pictures(folder: Path) -> list[Picture]:
    """Pictures that are no curves of ours."""
    return [picture for picture in find_pictures(folder / FOLDER) if not picture.is_curve]


def _picture_section(picture: Picture) -> str:
    heading = picture.name.replace("-", " ").replace("_", " ")
    return section(heading[:1].upper() + heading[1:], captioned(picture.path.read_bytes(), picture.caption))


def _figures(folder: Path) -> Iterable[Mapping[str, Any]]:
    for path in sorted(folder.glob("figures*.json")):
        content = json.loads(path.read_text())
        yield from content if isinstance(content, list) else [content]


def _figures_section(figures: Mapping[str, Any]) -> str:
    return section(str(figures["title"]), table(figures["rows"], note=str(figures.get("note") or "")))
