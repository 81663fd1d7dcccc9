"""A look into a few steps."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist
from pydantic import Field
from torch.profiler import ProfilerActivity, profile, schedule

from maws_composer.checkpoints.saving import run_folder_here
from maws_composer.registry import register_callback

log = logging.getLogger("maws_composer.callbacks.profiler")


@register_callback("profiler")
class Profiler(Callback):
    """Records what CPU and GPU do in some steps: `traces/rank0-ba20.json.gz` in the run's folder, on this machine, for
    ui.perfetto.dev or chrome://tracing.

    torch's profiler, begun one step earlier to warm up. The steps are slower for it, the others are not; a run that is
    resumed after them records nothing. (Composer's Profiler is an argument of its Trainer, and no callback.)

    Args:
        first: number of the first step that is recorded.
        steps: how many are.
        ranks: which record.
        stacks: also where in the source each operation was called; large.
        memory: also allocations; large.
    """

    def __init__(
        self,
        first: Annotated[int, Field(ge=2)] = 20,
        steps: Annotated[int, Field(gt=0)] = 3,
        ranks: tuple[int, ...] = (0,),
        stacks: bool = False,
        memory: bool = False,
    ) -> None:
        self.first, self.steps, self.stacks, self.memory = first, steps, stacks, memory
        self.records = dist.get_global_rank() in ranks
        self.profile: profile | None = None

    def before_dataloader(self, state: State, logger: Logger) -> None:
        if self.records and self.profile is None and int(state.timestamp.batch) + 2 == self.first:
            folder = run_folder_here(state) / "traces"
            self.profile = profile(
                schedule=schedule(wait=0, warmup=1, active=self.steps, repeat=1),
                on_trace_ready=lambda made: self._write(made, folder),
                with_stack=self.stacks,
                profile_memory=self.memory,
                activities=[
                    ProfilerActivity.CPU,
                    *([ProfilerActivity.CUDA] if torch.cuda.is_available() else []),
                ],
            )
            self.profile.start()

    def batch_end(self, state: State, logger: Logger) -> None:
        if self.profile is None:
            return
        self.profile.step()
        if int(state.timestamp.batch) + 1 == self.first + self.steps:
            self.profile.stop()
            self.profile, self.records = None, False

    def _write(self, made: profile, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        file = folder / f"rank{dist.get_global_rank()}-ba{self.first}.json.gz"
        made.export_chrome_trace(str(file))
        log.info("profile of %d steps: %s", self.steps, file)
