"""Loggers under the names of `loggers:`. Those of the extras are imported when they are asked for."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

from composer.loggers import LoggerDestination, MLFlowLogger, WandBLogger
from composer.utils import dist
from pydantic import Field

from maws_composer.checkpoints.run_folder import run_id
from maws_composer.config.durations import parse_duration
from maws_composer.data.columns import CAPTION
from maws_composer.planning.plan import columns_of
from maws_composer.registry import register_logger
from maws_composer.reporting.progress_bar import ProgressBar
from maws_composer.reporting.tensorboard import ContinuedTensorboard

if TYPE_CHECKING:
    from maws_composer.config.run import Run


@register_logger("progress_bar")
def progress_bar(every: Annotated[float, Field(gt=0)] = 60.0, *, run: Run) -> LoggerDestination:
    """How far the run is, how fast it gets on, and when it will be through. Without a terminal, lines in the log.

    Args:
        every: seconds between two lines, where there is no terminal.
    """
    unit = "pairs" if CAPTION in columns_of(run) else "images"
    return ProgressBar(every, parse_duration(run.save_interval), run.global_train_batch_size, unit)


@register_logger("tensorboard")
def tensorboard(log_dir: str | None = None, flush_interval: int = 100, *, run: Run) -> LoggerDestination:
    """Needs the extra `tensorboard`. A resumed run goes on in the same curves, without what it does again.

    Args:
        log_dir: default: <save_folder>/tensorboard, or runs/<run_name>/tensorboard where that is remote.
        flush_interval: batches between writes.
    """
    _require("tensorboard")
    home = f"runs/{run.run_name}" if "://" in run.save_folder else run.save_folder
    return ContinuedTensorboard(log_dir=log_dir or f"{home}/tensorboard", flush_interval=flush_interval)


@register_logger("wandb")
def wandb(
    project: str | None = None, entity: str | None = None, tags: list[str] | None = None, *, run: Run
) -> LoggerDestination:
    """Needs the extra `wandb`. A resumed run goes on in the same W&B run, which keeps steps that it does again.

    Args:
        project: the project's name.
        entity: user or team.
        tags: of the run.
    """
    _require("wandb")
    # The folder's id, not the name: two runs of one recipe have one name. Only rank 0 logs.
    resuming: dict[str, Any] = {"resume": "allow"}
    if dist.get_global_rank() == 0:
        resuming["id"] = run_id(run.save_folder)
    return WandBLogger(project=project, entity=entity, name=run.run_name, tags=tags, init_kwargs=resuming)


@register_logger("mlflow")
def mlflow(experiment_name: str | None = None, tracking_uri: str | None = None, *, run: Run) -> LoggerDestination:
    """Needs the extra `mlflow`. A resumed run goes on in the experiment's MLflow run of the same `run_name`.

    Args:
        experiment_name: default: MLflow's own.
        tracking_uri: server or folder.
    """
    _require("mlflow")
    return MLFlowLogger(
        experiment_name=experiment_name,
        run_name=run.run_name,
        tracking_uri=tracking_uri,
        resume=True,
        log_system_metrics=False,
    )


def _require(extra: str) -> None:
    """Extras are named like the package that they bring."""
    if find_spec(extra) is None:
        raise ImportError(f"needs the extra {extra}: pip install -e '.[{extra}]'")
