"""Encoders to take away, while the run goes on."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist
from pydantic import Field

from maws_composer.checkpoints.completeness import Checkpoint, read_checkpoint
from maws_composer.checkpoints.run_folder import open_path
from maws_composer.checkpoints.saving import ShardedCheckpoints
from maws_composer.config.problems import Problem
from maws_composer.config.run import Run
from maws_composer.registry import register_callback
from maws_composer.resilience.preemption import Preemption
from maws_composer.resilience.progress import limited_wait
from maws_composer.weights.export import export
from maws_composer.weights.files import AVERAGED

if TYPE_CHECKING:
    from cloudpathlib import CloudPath

log = logging.getLogger("maws_composer.callbacks.export_on_checkpoint")

KEY = "callbacks.export_on_checkpoint"
PAUSE = 1.0  # seconds between looks at a checkpoint that is being written, or uploaded


@register_callback("export_on_checkpoint")
class ExportOnCheckpoint(Callback):
    """Exports the encoder to `exports/ep0-ba1000` of the run, from a checkpoint once it is complete.

    Rank 0 does so in a thread of its own, from what was saved: training does not wait, but for the last export at the
    end of the run. It takes host memory for one copy of the encoder, and room on the disk for every export. What has
    its final name is whole. An export that fails is logged, and does not end the run; one that a preemption cuts off is
    made up for by the next start.

    Args:
        to: as for `maws-composer export`.
        every: how many checkpoints make an export; the run's last one does in any case.
        ema: export the moving average of the weights, which callbacks.ema makes.
    """

    def __init__(
        self,
        to: Literal["timm", "hf", "maws"] = "timm",
        every: Annotated[int, Field(gt=0)] = 1,
        ema: bool = False,
        *,
        run: Run,
    ) -> None:
        self.to, self.every, self.ema, self.run = to, every, ema, run
        self.count = 0  # of checkpoints
        self.seen: int | None = None  # batch of the newest
        self.thread: threading.Thread | None = None

    def preflight(self) -> list[Problem]:
        """What foreseeably cannot be exported."""
        if self.to == "timm" and self.run.model.get("lock_image_tower"):
            return [Problem(KEY, "this stage's encoder is locked, and stays as it came; remove it, or set to=hf")]
        if self.to != "timm" and self.run.model.get("qk_norm"):
            return [Problem(f"{KEY}.to", f"{self.to} has no place for QK-norm; set to=timm")]
        if self.ema and "ema" not in self.run.callbacks:
            return [Problem(f"{KEY}.ema", "there is no moving average; add callbacks.ema.half_life")]
        return []

    def init(self, state: State, logger: Logger) -> None:
        self.saver = next(each for each in state.callbacks if isinstance(each, ShardedCheckpoints))
        self.preemption = next(each for each in state.callbacks if isinstance(each, Preemption))

    def fit_start(self, state: State, logger: Logger) -> None:
        self._look(state)  # an earlier start may have left before it had exported what this one begins with

    def batch_start(self, state: State, logger: Logger) -> None:
        self._look(state)

    def close(self, state: State, logger: Logger) -> None:
        if self.preemption.is_leaving or not self._is_over(state):
            return
        self._look(state)
        if self.thread is not None:
            with limited_wait("exporting the last checkpoint"):
                self.thread.join()

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self.seen = state["count"], None  # the checkpoint itself is counted when it is seen

    def _look(self, state: State) -> None:
        """Begin an export if there is a new checkpoint, and its turn."""
        newest = self.saver.last_checkpoint_batch
        if newest is None or newest.value in (0, self.seen):
            return
        self.seen = newest.value
        self.count += 1
        if dist.get_global_rank() == 0 and (self._is_over(state) or self.count % self.every == 0):
            arguments = (newest.value, self.thread)
            self.thread = threading.Thread(target=self._export, args=arguments, name="export", daemon=True)
            self.thread.start()

    def _is_over(self, state: State) -> bool:
        return state.max_duration is not None and state.timestamp >= state.max_duration

    def _export(self, batch: int, earlier: threading.Thread | None) -> None:
        if earlier is not None:
            earlier.join()
        try:
            local = Path(self.saver.folder)
            name = next(local.glob(f"ep*-ba{batch}")).name
            out = local.parent / "exports" / (f"{name}.pt" if self.to == "maws" else name)
            home = open_path(self.run.save_folder)
            checkpoint = home / "checkpoints" / name
            while not isinstance(read_checkpoint(checkpoint), Checkpoint):
                if self.seen != batch:
                    raise TimeoutError("it was still incomplete when the next one began")
                time.sleep(PAUSE)
            if not out.exists():
                export(f"{checkpoint}{AVERAGED if self.ema else ''}", self.to, out)
                log.info("exported %s", out)
            if not isinstance(home, Path):
                _upload(out, home / "exports")
        except Exception as error:
            log.warning("the checkpoint of batch %d was not exported: %s", batch, error)


def _upload(out: Path, exports: CloudPath) -> None:
    """A folder's smallest file, its configuration, last: without it the others are no model."""
    files = sorted(out.iterdir(), key=lambda file: -file.stat().st_size) if out.is_dir() else [out]
    for file in files:
        there = exports / str(file.relative_to(out.parent))
        assert not isinstance(there, Path)
        there.upload_from(file, force_overwrite_to_cloud=True)
