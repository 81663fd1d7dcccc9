"""`maws-composer report`, `checkpoints` and `probe`: what has become of a run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from maws_composer.cli.option_types import positive
from maws_composer.config.problems import ConfigError, Problem, not_there

if TYPE_CHECKING:
    from maws_composer.cli.option_types import Commands


def add_report(commands: Commands) -> None:
    report = commands.add_parser("report", help="write report.html of a run, or one page about several")
    report.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, local or in object storage")
    report.add_argument(
        "--evaluations", default="evaluations", metavar="FOLDER",
        help="where results of evaluate.py are, of these runs and others (default: %(default)s)",
    )  # fmt: skip
    report.add_argument(
        "--out", type=Path, metavar="FILE",
        help="the page (default: report.html in the run's folder; of a run in object storage, <run>.html here; of "
        "several, comparison.html here)",
    )  # fmt: skip
    report.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> None:
    from maws_composer.reporting.comparison import write_comparison
    from maws_composer.reporting.report import write_report

    for run in options.runs:
        if "://" not in run:
            _require_run(Path(run))
    if options.out and options.out.is_dir():
        raise ConfigError([Problem("--out", f"{options.out} is a folder; name a file in it, such as report.html")])
    if len(options.runs) > 1:
        print(write_comparison(options.runs, options.evaluations, options.out or Path("comparison.html")))
    else:
        print(write_report(options.runs[0], options.evaluations, options.out))


def add_checkpoints(commands: Commands) -> None:
    checkpoints = commands.add_parser(
        "checkpoints", help="what a run has saved; with --verify, whether it is undamaged"
    )
    checkpoints.add_argument("run_folder", metavar="RUN", help="a run's folder, local or in object storage")
    checkpoints.add_argument("names", nargs="*", metavar="NAME", help="such as ep0-ba1000 (default: all of them)")
    checkpoints.add_argument(
        "--verify",
        action="store_true",
        help="read every byte; exit code 1 if one is damaged that claims to be complete",
    )
    checkpoints.set_defaults(run=_checkpoints)


def _checkpoints(options: argparse.Namespace) -> int:
    from maws_composer.checkpoints.listing import describe, find_checkpoints, verify

    found = find_checkpoints(options.run_folder, options.names)
    wrong = verify(found) if options.verify else None
    print(describe(found, wrong))
    return 1 if wrong else 0


def add_probe(commands: Commands) -> None:
    probe = commands.add_parser("probe", help="ridge probes of hashtags: the run's encoder against a random one")
    probe.add_argument("run_folder", type=Path, metavar="RUN", help="local folder of an MAE run")
    probe.add_argument("--train", required=True, help="local MDS folder with hashtags")
    probe.add_argument("--test", required=True, help="held out, likewise")
    probe.add_argument("--min-images", type=positive, default=8, help="of a hashtag that counts (default: %(default)s)")
    probe.set_defaults(run=_probe)


def _probe(options: argparse.Namespace) -> None:
    from maws_composer.evaluation.probe import probe

    _require_run(options.run_folder)
    for name, result in probe(options.run_folder, options.train, options.test, options.min_images).items():
        print(f"{name:<16} mAP {result.mean_average_precision:.3f} over {result.labels} hashtags")


def _require_run(folder: Path) -> None:
    if not folder.exists():
        raise ConfigError([Problem(str(folder), not_there(folder))])
    if not (folder / "metrics.jsonl").exists():
        raise ConfigError([Problem(str(folder), "has no metrics.jsonl; name the folder of a run")])
