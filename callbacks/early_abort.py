"""The end of a run that is not worth going on with."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches

from composer.core import Callback, State
from composer.loggers import Logger, LoggerDestination
from composer.utils import dist

from maws_composer.config.durations import Samples, samples
from maws_composer.config.problems import Problem
from maws_composer.config.run import Run
from maws_composer.registry import register_callback
from maws_composer.resilience.loss_spikes import DivergedError

log = logging.getLogger("maws_composer.callbacks.early_abort")

KEY = "callbacks.early_abort.limits"
AFTER = 2  # steps of a start: whatever each of them logs has been logged
LATE = {  # beginnings of metrics that are logged at intervals, and by which callback
    "metrics/eval/": "", "eval/": "online_evaluation", "norm/": "norms", "throughput/": "throughput",
    "memory/": "memory", "lr/": "learning_rates",
}  # fmt: skip


class AbortedError(DivergedError):
    """A metric has passed a limit. On all ranks alike."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What a metric may be; NaN is beyond any limit.

    Args:
        above: it may not be.
        below: it may not be.
        after: samples that are seen before it counts; default: from the start.
    """

    above: float | None = None
    below: float | None = None
    after: Samples | None = None

    def broken_by(self, value: float) -> str | None:
        """How, in words."""
        if self.above is not None and not value <= self.above:
            return f"above {self.above:g}"
        if self.below is not None and not value >= self.below:
            return f"below {self.below:g}"
        return None


@register_callback("early_abort")
class EarlyAbort(Callback):
    """Ends the run with an error when a metric passes a limit.

        early_abort: {limits: {loss: {above: 7, after: 10_000_000sp}, eval/knn/top1: {below: 0.2}}}

    The error says which, and `status.json` becomes `failed`: a scheduler does not start the run again, as after
    `preempted`, nor what should come after it, as after `finished`. The checkpoints are kept; without the limit, the
    same command goes on.

    Args:
        limits: metric, as in `metrics.jsonl` -> what it may be.
    """

    def __init__(self, limits: dict[str, Limit], *, run: Run) -> None:
        self.limits, self.run = limits, run
        self.heard = Heard(limits)
        self.steps, self.told = 0, set[str]()

    def preflight(self) -> list[Problem]:
        """Limits that cannot count."""
        return [*self._problems()]

    def _problems(self) -> Iterator[Problem]:
        if not self.limits:
            yield Problem(KEY, "names no metric, such as loss")
        for metric, limit in self.limits.items():
            if limit.above is None and limit.below is None:
                yield Problem(f"{KEY}.{metric}", "needs above or below")
            if metric.startswith("run/"):
                yield Problem(f"{KEY}.{metric}", "is of each rank's own clock; callbacks.run_timeout is for times")
            if metric.startswith("metrics/") and self.run.data.eval is None:
                yield Problem(f"{KEY}.{metric}", "comes of held-out samples; set data.eval")
            if metric.startswith("eval/") and "online_evaluation" not in self.run.callbacks:
                yield Problem(f"{KEY}.{metric}", "comes of callbacks.online_evaluation; or mean metrics/eval/…")

    def init(self, state: State, logger: Logger) -> None:
        logger.destinations = (*logger.destinations, self.heard)

    def after_load(self, state: State, logger: Logger) -> None:
        self.heard.values.clear()  # the run may have gone back behind them

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        """After evaluations, when the step is written down. All ranks have logged the same."""
        self.steps += 1
        if self.steps >= AFTER:
            self._tell(metric for metric in self.limits if not self._is_to_come(metric))
        new = self.heard.take()
        for metric, limit in self.limits.items():
            value = new.get(metric)
            if value is None or (limit.after and state.timestamp.sample < samples(limit.after)):
                continue
            if broken := limit.broken_by(value):
                where = f"batch {int(state.timestamp.batch):,}, sample {int(state.timestamp.sample):,}"
                raise AbortedError(f"{metric} is {value:.4g} at {where}: {broken}, which {KEY} does not allow")

    def fit_end(self, state: State, logger: Logger) -> None:
        self._tell(self.limits)

    def _is_to_come(self, metric: str) -> bool:
        begin = next((each for each in LATE if metric.startswith(each)), None)
        is_made = begin is not None and (not LATE[begin] or LATE[begin] in self.run.callbacks)
        return is_made and not any(name.startswith(begin or "") for name in self.heard.names)

    def _tell(self, metrics: Iterable[str]) -> None:
        """Once, which limits do not count because no such metric is logged."""
        names = sorted(name for name in self.heard.names if not name.startswith(("time/", "run/")))
        untold = {*metrics} - self.heard.names - self.told
        self.told |= untold
        for metric in untold if dist.get_global_rank() == 0 else ():
            nearest = get_close_matches(metric, names, n=1)
            hint = f"nearest is {nearest[0]}; " if nearest else ""
            log.warning("%s.%s does not count: no such metric is logged; %slogged are %s", KEY, metric, hint, names)


class Heard(LoggerDestination):
    """What was logged since it was asked last, of metrics that have a limit, and the names of all that were logged."""

    def __init__(self, wanted: Collection[str]) -> None:
        self.wanted = wanted
        self.values: dict[str, float] = {}
        self.names: set[str] = set()

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for logged, value in metrics.items():
            name = "loss" if logged == "loss/train/total" else logged  # as metrics.jsonl has it
            self.names.add(name)
            if name in self.wanted or name == "skipped":
                self.values[name] = float(value)

    def take(self) -> dict[str, float]:
        """Without the loss of a step that loss_spikes has left out."""
        values, self.values = self.values, {}
        return {name: value for name, value in values.items() if not (name == "loss" and "skipped" in values)}
