"""Several runs on one page: their figures beside each other, their curves over each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from maws_composer.config.compare import changed_keys, leaves
from maws_composer.reporting.curves import draw_curves, evaluation_keys, readable, series
from maws_composer.reporting.evaluations import evaluated, evaluation_pictures, figure_rows
from maws_composer.reporting.metrics_file import Steps, read_metrics
from maws_composer.reporting.page import captioned, image, section, table, write_page
from maws_composer.reporting.pictures import FOLDER, find_pictures
from maws_composer.reporting.report import label_section


@dataclass(frozen=True)
class _Run:
    folder: Path
    name: str
    config: dict[str, Any]

    @cached_property
    def steps(self) -> Steps:
        return read_metrics(self.folder)

    @property
    def stage(self) -> str:
        return str(self.config.get("stage", ""))


def write_comparison(run_folders: Sequence[Path], evaluations: str | Path, out: Path) -> Path:
    """Write a page about several runs, in one file, that needs no network.

    Losses and evaluation figures are drawn over each other for runs of one stage; those of two stages do not compare.

    Args:
        run_folders: local folders of runs.
        evaluations: where evaluate.py left results of them, if it did.
        out: the page.
    """
    runs = _read(run_folders)
    stages = [[run for run in runs if run.stage == stage] for stage in dict.fromkeys(run.stage for run in runs)]
    figures = {run.name: {"samples": run.steps[-1]["samples"], **_last(run), **evaluated(run.folder, evaluations)}
               for run in runs if run.steps}  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    write_page(
        out,
        ", ".join(run.name for run in runs),
        [
            section("Figures", table(figure_rows(figures))),
            *(part for group in stages for part in (*_curves(group), _differences(group))),
            *dict.fromkeys(label_section(run.config) for run in runs),
            *(part for run in runs for part in (*_pictures(run), *evaluation_pictures(run.folder, evaluations))),
        ],
    )
    return out


def _read(folders: Sequence[Path]) -> list[_Run]:
    configs = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in folders]
    names = [str(config.get("run_name") or folder.name) for config, folder in zip(configs, folders, strict=True)]
    unique = len({*names}) == len(names)
    return [
        _Run(folder, name if unique else str(folder), config)
        for folder, name, config in zip(folders, names, configs, strict=True)
    ]


def _last(run: _Run) -> dict[str, float]:
    curves = {key: series(run.steps, key)[1] for key in evaluation_keys(run.steps)}
    return {readable(key): float(values[-1]) for key, values in curves.items() if len(values)}


def _curves(runs: Sequence[_Run]) -> Iterator[str]:
    keys = dict.fromkeys(key for run in runs for key in ("loss", *evaluation_keys(run.steps)))
    for key in keys:
        curves = {run.name: series(run.steps, key) for run in runs}
        curves = {name: curve for name, curve in curves.items() if len(curve[0])}
        if curves:
            label = f"{runs[0].stage} {readable(key)}"
            noisy = list(curves) if key == "loss" else []
            yield section(label, image(draw_curves(curves, noisy, readable(key)), f"{label} against samples"))


def _differences(runs: Sequence[_Run]) -> str:
    """Settings that affect results and are not the same in all of the runs."""
    first, *others = (run.config for run in runs)
    keys = dict.fromkeys(key for other in others for key in changed_keys(first, other))
    settings = {run.name: leaves(run.config) for run in runs}
    rows = [{"": key, **{name: str(leaf.get(key, "")) for name, leaf in settings.items()}} for key in keys]
    return section(f"{runs[0].stage}: what was set differently", table(rows))


def _pictures(run: _Run) -> Iterator[str]:
    for picture in find_pictures(run.folder / FOLDER):
        if not picture.is_curve:
            yield section(f"{run.name}: {picture.name}", captioned(picture.path.read_bytes(), picture.caption))
