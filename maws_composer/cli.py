"""`maws-composer`: what one does beside training."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maws_composer.config.problems import ConfigError, Problem, format_problems
from maws_composer.planning.gpus import GPUS
from maws_composer.registry import KINDS

if TYPE_CHECKING:
    from maws_composer.config.run import Run
    from maws_composer.planning.forecast import Cluster


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sub-command; returns the exit code: 2 for mistakes in a configuration."""
    options = _parser().parse_args(arguments)
    try:
        code: int | None = options.run(options)
    except ConfigError as error:
        print(format_problems(getattr(options, "config", options.command), error.problems), file=sys.stderr)
        return 2
    return code or 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="maws-composer", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    plan = commands.add_parser(
        "plan",
        help="parameters, FLOPs, memory, days, cost and legal GPU counts of runs",
        description="What a run will take, by arithmetic. Several YAMLs are put side by side.",
    )
    plan.add_argument("config", nargs="+", metavar="CONFIG [key=value ...]", help="YAMLs, as for train.py; then keys")
    plan.add_argument("--gpus", type=_positive, required=True, help="how many")
    plan.add_argument("--gpus-per-node", type=_positive, default=8, help="(default: %(default)s)")
    plan.add_argument("--gpu", choices=GPUS, default="h100", help="kind (default: %(default)s)")
    plan.add_argument("--mfu", type=_share, default=0.4, help="share of the peak to reckon with (default: %(default)s)")
    plan.add_argument("--price", type=_above_zero, help="of a GPU-hour, for the cost")
    plan.add_argument(
        "--network", type=_above_zero, default=400, help="Gbit/s of each GPU to other nodes (default: %(default)s)"
    )
    plan.add_argument(
        "--image-kb", type=_above_zero, default=66, help="size of a stored image (default: %(default)s, 500 x 375 JPEG)"
    )
    plan.add_argument(
        "--dry-run", action="store_true", help="build the run as one of so many ranks, and send shapes through a step"
    )
    plan.add_argument("--plot", type=Path, metavar="FILE", help="a picture of memory and GPU-hours, such as plan.png")
    plan.set_defaults(run=_plan)

    launch = commands.add_parser(
        "launch",
        help="train.py on all GPUs of a node, for a scheduler that takes machines away",
        description="As `composer`, with the same options. On several nodes, one on each: the scheduler's environment "
        "(Slurm, SkyPilot, torchrun's PET_*) says the rest. SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 have the run saved; "
        "the same signal once more, some seconds later, ends it at once. Exit codes: 0 finished; 75 preempted, start "
        "the same command again; 2 the configuration is refused; 1 failed.",
    )
    launch.add_argument("-n", "--nproc", type=_positive, help="ranks on this node (default: one per GPU)")
    launch.add_argument("--world_size", type=_positive, help="ranks on all nodes")
    launch.add_argument("--base_rank", type=_count, help="of the first rank on this node")
    launch.add_argument("--node_rank", type=_count, help="of this node")
    launch.add_argument("--master_addr", help="of the first node")
    launch.add_argument("--master_port", type=_positive, help="on the first node")
    launch.add_argument("--stdout", metavar="FORMAT", help="file for other ranks' output, such as rank{rank}.log")
    launch.add_argument("--stderr", metavar="FORMAT", help="likewise")
    launch.add_argument("-v", "--verbose", action="store_true", help="say when ranks start")
    launch.add_argument("-m", "--module_mode", action="store_true", help="the script is a module")
    launch.add_argument("-c", "--command_mode", action="store_true", help="the script is a command")
    launch.add_argument("script", help="train.py, or evaluate.py")
    launch.add_argument("arguments", nargs=argparse.REMAINDER, help="its own")
    launch.set_defaults(run=_launch)

    registry = commands.add_parser("registry", help="what can be named in a YAML, where it is from, its arguments")
    registry.add_argument("kind", nargs="?", choices=KINDS, help="one of %(choices)s", metavar="KIND")
    registry.add_argument("name", nargs="?", metavar="NAME")
    registry.add_argument("--code-path", action="append", default=[], help="file, folder or module with plug-ins")
    registry.set_defaults(run=_registry)

    new = commands.add_parser("new", help="a callback that works, and its test, to begin with")
    new.add_argument("kind", choices=["callback"], metavar="KIND", help="%(choices)s")
    new.add_argument("name", metavar="NAME", help="in snake_case")
    new.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the two files are written")
    new.set_defaults(run=_new)

    probe = commands.add_parser("probe", help="ridge probes of hashtags: the run's encoder against a random one")
    probe.add_argument("run_folder", type=Path, metavar="RUN", help="local folder of an MAE run")
    probe.add_argument("--train", required=True, help="local MDS folder with hashtags")
    probe.add_argument("--test", required=True, help="held out, likewise")
    probe.add_argument(
        "--min-images", type=_positive, default=8, help="of a hashtag that counts (default: %(default)s)"
    )
    probe.set_defaults(run=_probe)

    embed = commands.add_parser(
        "embed",
        help="image embeddings of a captioned dataset, for LiT with model.image_embeddings",
        description="Run an encoder once over a dataset of images with captions, and write its output in fp16, beside "
        "the captions, as a new dataset. On several GPUs, or processes: composer -n 8 -m maws_composer.cli embed ... "
        "The same command goes on with what was interrupted, with any number of processes.",
    )
    embed.add_argument("weights", metavar="WEIGHTS", help="of the encoder: as for evaluate.py")
    embed.add_argument("data", metavar="DATA", help="folder or address of MDS shards with image, id and caption")
    embed.add_argument("out", metavar="OUT", help="a new folder that all processes see, or s3://…, gs://…, oci://…")
    embed.add_argument(
        "--column", action="append", type=_column, default=[], metavar="OURS=THEIRS", help="such as caption=text"
    )
    embed.add_argument("--image-size", type=_positive, help="side of the crop in pixels (default: that of the weights)")
    embed.add_argument("--resize", type=_positive, help="shorter side before the crop (default: the crop's)")
    embed.add_argument("--precision", choices=["fp32", "tf32", "amp_bf16"], default="fp32", help="(default: fp32)")
    embed.add_argument("--keep-images", action="store_true", help="write the images too")
    embed.add_argument("--batch-size", type=_positive, default=64, help="of one device (default: %(default)s)")
    embed.add_argument("--workers", type=_count, default=8, help="per device, to decode (default: %(default)s)")
    embed.add_argument("--part-size", type=_positive, default=10_000, help="images at least (default: %(default)s)")
    embed.add_argument("--max-bad", type=_share, default=0.01, help="samples left out at most (default: %(default)s)")
    embed.add_argument("--overwrite", action="store_true", help="replace what an earlier run wrote to OUT (a folder)")
    embed.add_argument("--scratch", type=Path, default=Path("/tmp/maws_composer"), help="local disk for caches")
    embed.add_argument("--code-path", action="append", default=[], help="where a size of your own is registered")
    embed.set_defaults(run=_embed)

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

    export = commands.add_parser("export", help="a run's weights for timm, Hugging Face or as the released MAWS files")
    export.add_argument(
        "source", metavar="RUN", help="a run, a checkpoint or other weights, local or in object storage"
    )
    export.add_argument("--to", required=True, metavar="NAME", help="layout: timm, hf, maws, checkpoint, or a plug-in")
    export.add_argument("out", type=Path, metavar="OUT", help="folder, for maws a file such as encoder.pt; a new one")
    export.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an argument of a plug-in")
    export.add_argument("--image-tower", help="of a LiT run that has none; default: what it began with")
    export.add_argument(
        "--code-path", action="append", default=[], help="where plug-ins are: exporters, importers, sizes"
    )
    export.set_defaults(run=_export)

    tower = commands.add_parser("text-tower", help="a small text tower of your own: vocabulary and configuration")
    tower.add_argument("data", metavar="DATA", help="local MDS folder with captions")
    tower.add_argument("out", type=Path, metavar="OUT", help="a new folder, for model.text.name")
    tower.add_argument("--vocabulary", type=_positive, default=8000, help="pieces at most (default: %(default)s)")
    tower.add_argument("--width", type=_positive, default=256, help="(default: %(default)s)")
    tower.add_argument("--depth", type=_positive, default=4, help="(default: %(default)s)")
    tower.add_argument("--heads", type=_positive, default=4, help="(default: %(default)s)")
    tower.set_defaults(run=_text_tower)

    inspect = commands.add_parser("inspect", help="what a file or folder of weights is; nothing in it is run")
    inspect.add_argument("file", metavar="FILE", help="or a folder, a run, a checkpoint; local or in object storage")
    inspect.add_argument("--code-path", action="append", default=[], help="where plug-ins are: importers, sizes")
    inspect.set_defaults(run=_inspect)
    return parser


def _plan(options: argparse.Namespace) -> None:
    from maws_composer.planning.forecast import Cluster, forecast
    from maws_composer.planning.forecast_table import compare, describe, draw

    configs = [argument for argument in options.config if "=" not in argument]
    overrides = [argument for argument in options.config if "=" in argument]
    cluster = Cluster(
        gpus=options.gpus,
        kind=options.gpu,
        gpus_per_node=options.gpus_per_node,
        mfu=options.mfu,
        network=options.network * 1e9 / 8,
        price=options.price,
        image_bytes=options.image_kb * 1e3,
    )
    forecasts = []
    for options.config in configs:  # which is named above its problems
        forecasts.append(forecast(_run_to_plan(options.config, overrides, cluster), cluster))
    if not forecasts:
        raise ConfigError([Problem("CONFIG", "name a YAML before the keys")])
    print(describe(forecasts))
    for one in forecasts if options.dry_run else ():
        from maws_composer.planning.dry_run import dry_run

        print(f"\n{compare(one, dry_run(one.run, options.gpus, one.microbatch))}")
    if options.plot:
        draw(forecasts, options.plot)


def _run_to_plan(config: str, overrides: list[str], cluster: Cluster) -> Run:
    from maws_composer.config.plugins import load_with_ours
    from maws_composer.planning.preflight import check_model

    nodes, rest = divmod(cluster.gpus, cluster.gpus_per_node)
    if nodes and rest:
        message = f"{cluster.gpus} is not a multiple of {cluster.gpus_per_node} per node"
        raise ConfigError([Problem("--gpus", message)])
    loaded = load_with_ours(config, overrides, cluster.gpus, max(nodes, 1))
    if problems := check_model(loaded.run, cluster.gpus, memory=float("inf")):
        raise ConfigError(loaded.locate(problems))
    return loaded.run


def _launch(options: argparse.Namespace) -> int:
    from maws_composer.launch import launch

    return launch(options)


def _registry(options: argparse.Namespace) -> int:
    from maws_composer.config.plugins import our_code_paths
    from maws_composer.listing import describe, describe_all
    from maws_composer.registry import load_plugins, names

    problems = load_plugins([*our_code_paths(), *options.code_path])
    if problems:  # the others are listed all the same
        print(format_problems("registry", problems), file=sys.stderr)
    if options.name:
        print(describe(options.kind, options.name))
    elif options.kind:
        print("\n\n".join(describe_all(options.kind)))
    else:
        print("\n".join(f"{kind:<10} {', '.join(names(kind)) or '-'}" for kind in KINDS))
    return 2 if problems else 0


def _new(options: argparse.Namespace) -> None:
    from maws_composer.new_plugin import new_callback

    _load_plugins([])
    print("\n".join(str(file) for file in new_callback(options.name, options.out)))


def _probe(options: argparse.Namespace) -> None:
    from maws_composer.evaluation.probe import probe

    _require_run(options.run_folder)
    for name, result in probe(options.run_folder, options.train, options.test, options.min_images).items():
        print(f"{name:<16} mAP {result.mean_average_precision:.3f} over {result.labels} hashtags")


def _embed(options: argparse.Namespace) -> int:
    from maws_composer.resilience.orphans import end_with_launcher

    end_with_launcher()  # before the slow imports: a launcher may be killed during them

    from maws_composer.data.settings import EvalData
    from maws_composer.evaluation.embed import EmbedJob, embed
    from maws_composer.parallel.leave import work_and_leave

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    logging.getLogger("maws_composer").setLevel(logging.INFO)
    _load_plugins(options.code_path)
    place = "remote" if "://" in options.data else "local"
    job = EmbedJob(
        weights=options.weights,
        data=EvalData(**{place: options.data}, columns=dict(options.column), resize=options.resize),
        out=options.out,
        image_size=options.image_size,
        precision=options.precision,
        keep_images=options.keep_images,
        batch_size=options.batch_size,
        workers=options.workers,
        part_size=options.part_size,
        max_bad=options.max_bad,
        overwrite=options.overwrite,
        scratch=options.scratch,
    )
    return work_and_leave("maws-composer embed", lambda: embed(job))


def _report(options: argparse.Namespace) -> None:
    from maws_composer.reporting.comparison import write_comparison
    from maws_composer.reporting.report import write_report

    for run in options.runs:
        _require_run(run)
    if options.out and options.out.is_dir():
        raise ConfigError([Problem("--out", f"{options.out} is a folder; name a file in it, such as report.html")])
    if len(options.runs) > 1:
        print(write_comparison(options.runs, options.evaluations, options.out or Path("comparison.html")))
    else:
        print(write_report(options.runs[0], options.evaluations, options.out))


def _checkpoints(options: argparse.Namespace) -> int:
    from maws_composer.checkpoints.listing import describe, find_checkpoints, verify

    found = find_checkpoints(options.run_folder, options.names)
    wrong = verify(found) if options.verify else None
    print(describe(found, wrong))
    return 1 if wrong else 0


def _export(options: argparse.Namespace) -> None:
    from maws_composer.weights.export import export

    _load_plugins(options.code_path)
    print(f"{export(options.source, options.to, options.out, options.image_tower, options.set)} -> {options.out}")


def _inspect(options: argparse.Namespace) -> None:
    from maws_composer.weights.inspection import inspect

    _load_plugins(options.code_path)
    print(inspect(options.file))


def _text_tower(options: argparse.Namespace) -> None:
    from maws_composer.weights.new_text_tower import new_text_tower

    shape = {name: getattr(options, name) for name in ("vocabulary", "width", "depth", "heads")}
    print(f"{new_text_tower(options.data, options.out, **shape):,} pieces -> {options.out}")


def _load_plugins(code_paths: list[str]) -> None:
    from maws_composer.config.plugins import our_code_paths
    from maws_composer.registry import load_plugins

    if problems := load_plugins([*our_code_paths(), *code_paths]):
        raise ConfigError(problems)


def _require_run(address: str) -> None:
    if "://" not in address and not (Path(address) / "metrics.jsonl").exists():
        raise ConfigError([Problem(address, "has no metrics.jsonl; name the folder of a run")])


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return int(text)


def _above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return number


def _column(text: str) -> tuple[str, str]:
    ours, _, theirs = text.partition("=")
    if ours not in ("image", "id", "caption") or not theirs:
        raise argparse.ArgumentTypeError(f"expected image=, id= or caption= and its name in the shards, got {text}")
    return ours, theirs


def _count(text: str) -> int:
    return 0 if text == "0" else _positive(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"expected a share between 0 and 1, got {text}")
    return share


if __name__ == "__main__":
    sys.exit(main())
