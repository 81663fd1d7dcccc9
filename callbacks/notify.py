"""Messages about the run to a chat room, or to whatever takes a webhook."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from maws_composer.checkpoints.saving import run_folder_here
from maws_composer.config.problems import Problem
from maws_composer.config.run import Run
from maws_composer.config.secrecy import mask_text
from maws_composer.registry import register_callback
from maws_composer.resilience.preemption import Preemption
from maws_composer.resilience.progress import limited_wait
from maws_composer.resilience.webhook import ADDRESS

FAREWELL = 10.0  # seconds for the last message, at an orderly end


@register_callback("notify")
class Notify(Callback):
    """Posts JSON to a webhook when the run starts, is preempted, finishes or fails.

        {"text": "mae finished at batch 800, sample 204,800", "state": "finished", "run": "mae", "folder": "runs/mae",
         "batch": 800, "samples": 204800, "world_size": 8, "reason": null}

    The address is a credential for most services, so it is read from an environment variable, of rank 0: it is in no
    configuration, log or report. A process beside rank 0 posts, so that nothing slows the run or ends it; and it still
    posts when rank 0 is killed.

    Args:
        variable: the name of the environment variable.
    """

    def __init__(self, variable: str = ADDRESS, *, run: Run) -> None:
        self.variable, self.run = variable, run
        self.process: subprocess.Popen[str] | None = None

    def preflight(self) -> list[Problem]:
        """Whether there is an address; the problem does not show it."""
        key = "callbacks.notify.variable"
        if not self.variable.isidentifier():
            return [Problem(key, "expected the name of an environment variable, such as SLACK_WEBHOOK")]
        if not os.environ.get(self.variable, "").startswith(("https://", "http://")):
            return [Problem(key, f"the environment variable {self.variable} holds no https:// address")]
        return []

    def init(self, state: State, logger: Logger) -> None:
        self.preemption = next(each for each in state.callbacks if isinstance(each, Preemption))

    def fit_start(self, state: State, logger: Logger) -> None:
        if self.process is None and dist.get_global_rank() == 0:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "maws_composer.resilience.webhook", str(run_folder_here(state) / "status.json")],
                stdin=subprocess.PIPE,
                text=True,
                env={**os.environ, ADDRESS: os.environ[self.variable]},
                start_new_session=True,  # or what ends the rank's would end it too
            )
            self._say(state, "started")

    def close(self, state: State, logger: Logger) -> None:
        """At an orderly end; of any other the process hears when its input ends."""
        if self.process is None:
            return
        is_over = state.max_duration is not None and state.timestamp >= state.max_duration
        if is_over or self.preemption.is_leaving:
            self._say(state, "finished" if is_over else "preempted")
        process, self.process = self.process, None
        with limited_wait("posting the last message"), suppress(OSError, subprocess.TimeoutExpired):
            process.communicate(timeout=FAREWELL)

    def _say(self, state: State, what: str) -> None:
        assert self.process is not None and self.process.stdin is not None
        message = {
            "state": what,
            "run": self.run.run_name,
            "folder": mask_text(self.run.save_folder),
            "batch": int(state.timestamp.batch),
            "samples": int(state.timestamp.sample),
            "world_size": dist.get_world_size(),
            "reason": None,
        }
        with suppress(OSError):  # it is not there any more
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()
