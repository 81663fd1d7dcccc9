"""What the callbacks cost: steps/s with all of them against none, alternating in one process.

    python -m benchmarks.callbacks [yamls/quickstart/mae.yaml] [key=value ...] [--steps 100] [--rounds 3]

Method: one Trainer on one process trains on a generated batch. Stretches of `--steps` steps without callbacks and with
all of them take turns. Of each stretch the mean time of a step is kept, on the wall and of the processor (all threads;
what other processes do has less part in it), without the first step; medians over the rounds are compared. What happens
in every step is at its default; what has an interval happens once in each stretch: by default, pictures and garbage
collection come 50 and 10 times more seldom than once in 100 steps. Left out: what works at evaluations
(reconstructions, attention_maps, online_evaluation), at checkpoints and in other processes (export_on_checkpoint,
notify), and the profiler, which costs what it is asked for.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

CONFIG = "yamls/quickstart/mae.yaml"


def settings(folder: Path, steps: int) -> dict[str, dict[str, Any]]:
    """Callback -> arguments."""
    every = {"every": f"{steps}ba"}
    return {
        "throughput": {},
        "memory": every,
        "norms": every,
        "learning_rates": {},
        "garbage_collection": every,
        "patch_embedding": every,
        "position_embedding": every,
        "ema": {"half_life": "1_000_000sp"},
        "early_abort": {"limits": {"loss": {"above": 1e9}}},
        "run_timeout": {"hours": 1000.0},
        "heartbeat": {"file": str(folder / "heartbeat.json"), "seconds": 1.0},
    }


Times = tuple[float, float]  # seconds: on the wall, and of the processor


def measure(options: argparse.Namespace, folder: Path) -> dict[bool, list[Times]]:
    """Mean times of a step, by stretch: without callbacks, and with them."""
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1", NODE_RANK="0")

    from composer import Trainer
    from composer.core import DataSpec
    from composer.utils import dist

    from benchmarks.training_step import generated
    from maws_composer.checkpoints.run_folder import RunFolder
    from maws_composer.config.build import build
    from maws_composer.config.plugins import load_with_ours
    from maws_composer.optim.build import build_optimizer
    from maws_composer.optim.schedule import build_schedule
    from maws_composer.parallel.leave import leave_process_group
    from maws_composer.parallel.precision import COMPOSER_PRECISION, build_device, torch_device
    from maws_composer.parallel.shard import already_sharded, shard
    from maws_composer.planning.microbatch import agree_on_memory
    from maws_composer.registry import lookup
    from maws_composer.reporting.metrics_logger import MetricsFile
    from maws_composer.reporting.picture_logger import PictureFiles
    from maws_composer.resilience.loss_spikes import LossSpikes
    from maws_composer.stages.build import build_stage

    total = 2 * options.rounds * options.steps
    run = load_with_ours(options.config, ["data.train.local=generated", *options.overrides]).run
    dist.initialize_dist(build_device(run.precision), timeout=300)
    stage, (_, speed) = build_stage(run), agree_on_memory(run)
    shard(stage, speed, run.precision, run.seed, torch_device())
    optimizer = build_optimizer(stage, run)
    batch = generated(run, run.global_train_batch_size, "cpu")
    named = settings(folder, options.steps)
    measured = [build(lookup("callback", name), arguments, run) for name, arguments in named.items()]
    trainer = Trainer(
        model=stage,
        train_dataloader=DataSpec([batch] * total, get_num_samples_in_batch=lambda batch: len(batch["image"])),
        optimizers=optimizer,
        schedulers=build_schedule(optimizer, run),
        step_schedulers_every_batch=True,
        callbacks=[LossSpikes(run, RunFolder(str(folder), folder)), *measured],
        loggers=[MetricsFile(folder), PictureFiles(folder)],
        spin_dataloaders=False,
        device=build_device(run.precision),
        device_train_microbatch_size=run.global_train_batch_size,
        precision=COMPOSER_PRECISION[run.precision],
        parallelism_config={"fsdp": already_sharded()},
        progress_bar=False,
        auto_log_hparams=False,
    )
    everything, none = [*trainer.state.callbacks], [each for each in trainer.state.callbacks if each not in measured]
    clock = _clock()
    stretches: dict[bool, list[Times]] = {False: [], True: []}
    for turn in range(2 * options.rounds):
        with_them = bool((turn + turn // 2) % 2)  # off, on, on, off ...: a drift of the machine cancels out
        trainer.state.callbacks[:] = [*(everything if with_them else none), clock]
        clock.marks.clear()
        gc.enable()  # as before garbage_collection, which turns it off for the rest of a run
        trainer.fit(duration=f"{options.steps}ba")
        stretches[with_them].append(_mean_step(clock.marks))
    trainer.state.callbacks[:] = everything
    trainer.close()
    leave_process_group()
    return stretches


def _clock() -> Any:
    from composer.core import Callback

    class Clock(Callback):
        """The times at the ends of steps, callbacks included."""

        def __init__(self) -> None:
            self.marks: list[Times] = []

        def batch_end(self, state: Any, logger: Any) -> None:
            self.marks.append((time.perf_counter(), time.process_time()))

    return Clock()


def _mean_step(marks: list[Times]) -> Times:
    (first_wall, first_processor), (wall, processor), steps = marks[0], marks[-1], len(marks) - 1
    return (wall - first_wall) / steps, (processor - first_processor) / steps


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default=CONFIG)
    parser.add_argument("overrides", nargs="*", help="key=value, as for train.py")
    parser.add_argument("--steps", type=int, default=100, help="of a stretch")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_intermixed_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        stretches = measure(options, Path(folder))
    for which, name in enumerate(("wall", "processor")):
        without, with_them = (statistics.median(times[which] for times in stretches[side]) for side in (False, True))
        print(
            f"{name:<9}  a step takes {without * 1000:6.1f} ms without callbacks, {with_them * 1000:6.1f} ms with all: "
            f"{without / with_them:.3f} of the speed"
        )


if __name__ == "__main__":
    main()
