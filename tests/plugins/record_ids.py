"""A user's own callback, as in the README: writes down which samples each rank trains on."""

import json
import os
import time
from pathlib import Path

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from maws_composer.config.run import Run
from maws_composer.registry import register_callback


@register_callback("record_ids")
class RecordIds(Callback):
    """One JSON line per step and rank.

    Args:
        folder: where ids-rank<n>.jsonl goes.
    """

    def __init__(self, folder: str, *, run: Run) -> None:
        self.folder = Path(folder)
        self.global_batch = run.global_train_batch_size

    def batch_start(self, state: State, logger: Logger) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        assert len(state.batch["id"]) * dist.get_world_size() == self.global_batch
        entry = {
            "batch": int(state.timestamp.batch),
            "ids": list(state.batch["id"]),
            "launch": f"{os.environ.get('MASTER_PORT')}-{dist.get_world_size()}",  # the same on all ranks
            "time": time.monotonic(),
        }
        with (self.folder / f"ids-rank{dist.get_global_rank()}.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")
