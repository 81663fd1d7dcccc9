"""`maws-composer plan` and `launch`: what a run will take, and its start under a scheduler."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maws_composer.cli.option_types import above_zero, count, gpu, positive, price, share
from maws_composer.config.problems import ConfigError, Problem, format_problems
from maws_composer.planning.gpus import GPUS

if TYPE_CHECKING:
    from maws_composer.cli.option_types import Commands
    from maws_composer.config.run import Run
    from maws_composer.planning.forecast import Cluster, Forecast


def add_plan(commands: Commands) -> None:
    plan = commands.add_parser(
        "plan",
        help="parameters, FLOPs, memory, days, cost and legal GPU counts of runs",
        description="What a run will take, by arithmetic. Several YAMLs are put side by side.",
    )
    plan.add_argument("config", nargs="+", metavar="CONFIG [key=value ...]", help="YAMLs, as for train.py; then keys")
    plan.add_argument("--gpus", type=positive, required=True, help="how many")
    plan.add_argument("--gpus-per-node", type=positive, default=8, help="(default: %(default)s)")
    plan.add_argument("--gpu", type=gpu, default="h100", help=f"kind: {', '.join(GPUS)} (default: %(default)s)")
    plan.add_argument("--mfu", type=share, default=0.4, help="share of the peak to reckon with (default: %(default)s)")
    plan.add_argument("--price", type=price, help='of a GPU-hour, for the cost, such as "2.5 USD"')
    plan.add_argument(
        "--network", type=above_zero, default=400, help="Gbit/s of each GPU to other nodes (default: %(default)s)"
    )
    plan.add_argument(
        "--image-kb", type=above_zero, default=66, help="size of a stored image (default: %(default)s, 500 x 375 JPEG)"
    )
    plan.add_argument(
        "--dry-run", action="store_true", help="build the run as one of so many ranks, and send shapes through a step"
    )
    plan.add_argument("--plot", type=Path, metavar="FILE", help="a picture of memory and GPU-hours, such as plan.png")
    plan.set_defaults(run=_plan)


def _plan(options: argparse.Namespace) -> int:
    from maws_composer.planning.forecast_table import compare, describe, draw

    configs = [argument for argument in options.config if "=" not in argument]
    overrides = [argument for argument in options.config if "=" in argument]
    if not configs:
        raise ConfigError([Problem("CONFIG", "name a YAML before the keys")])
    forecasts, refused = _forecasts(configs, overrides, _cluster(options))
    if refused:
        print("\n\n".join(format_problems(config, problems) for config, problems in refused.items()), file=sys.stderr)
        return 2
    print(describe(forecasts))
    if options.dry_run:
        from maws_composer.planning.dry_run import dry_run

        for one in forecasts:
            print(f"\n{compare(one, dry_run(one.run, options.gpus, one.microbatch))}")
    if options.plot:
        draw(forecasts, options.plot)
    return 0


def _cluster(options: argparse.Namespace) -> Cluster:
    from maws_composer.planning.forecast import Cluster

    if options.gpus > options.gpus_per_node and options.gpus % options.gpus_per_node:
        whole = options.gpus // options.gpus_per_node * options.gpus_per_node
        message = (
            f"{options.gpus} do not fill nodes of {options.gpus_per_node}; use {whole} or "
            f"{whole + options.gpus_per_node}, or say --gpus-per-node"
        )
        raise ConfigError([Problem("--gpus", message)])
    return Cluster(
        gpus=options.gpus,
        kind=options.gpu,
        gpus_per_node=options.gpus_per_node,
        mfu=options.mfu,
        network=options.network * 1e9 / 8,
        price=options.price,
        image_bytes=options.image_kb * 1e3,
    )


def _forecasts(
    configs: Sequence[str], overrides: Sequence[str], cluster: Cluster
) -> tuple[list[Forecast], dict[str, list[Problem]]]:
    """Of each run, or what is wrong with it."""
    from maws_composer.planning.forecast import forecast

    forecasts, refused = [], {}
    for config in configs:
        try:
            forecasts.append(forecast(_run_to_plan(config, overrides, cluster), cluster))
        except ConfigError as error:
            refused[config] = error.problems
    return forecasts, refused


def _run_to_plan(config: str, overrides: Sequence[str], cluster: Cluster) -> Run:
    from maws_composer.config.plugins import load_with_ours
    from maws_composer.planning.preflight import check_model

    loaded = load_with_ours(config, overrides, cluster.gpus, cluster.nodes)
    if problems := check_model(loaded.run, cluster.gpus, memory=float("inf")):
        raise ConfigError(loaded.locate(problems))
    return loaded.run


def add_launch(commands: Commands) -> None:
    launch = commands.add_parser(
        "launch",
        help="train.py on all GPUs of a node, for a scheduler that takes machines away",
        description="As `composer`, with the same options. On several nodes, one on each: the scheduler's environment "
        "(Slurm, SkyPilot, torchrun's PET_*) says the rest. SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 have the run saved; "
        "the same signal once more, some seconds later, ends it at once. Exit codes: 0 finished; 75 preempted, start "
        "the same command again; 2 the configuration is refused; 1 failed.",
    )
    launch.add_argument("-n", "--nproc", type=positive, help="ranks on this node (default: one per GPU)")
    launch.add_argument("--world_size", type=positive, help="ranks on all nodes")
    launch.add_argument("--base_rank", type=count, help="of the first rank on this node")
    launch.add_argument("--node_rank", type=count, help="of this node")
    launch.add_argument("--master_addr", help="of the first node")
    launch.add_argument("--master_port", type=positive, help="on the first node")
    launch.add_argument("--stdout", metavar="FORMAT", help="file for other ranks' output, such as rank{rank}.log")
    launch.add_argument("--stderr", metavar="FORMAT", help="likewise")
    launch.add_argument("-v", "--verbose", action="store_true", help="say when ranks start")
    launch.add_argument("-m", "--module_mode", action="store_true", help="the script is a module")
    launch.add_argument("-c", "--command_mode", action="store_true", help="the script is a command")
    launch.add_argument("script", help="train.py, or evaluate.py")
    launch.add_argument("arguments", nargs=argparse.REMAINDER, help="its own")
    launch.set_defaults(run=_launch)


def _launch(options: argparse.Namespace) -> int:
    from maws_composer.launch import launch

    return launch(options)
