"""Train one stage from a YAML file.

    composer train.py yamls/mae_vit6.5b.yaml data.train.remote=s3://bucket/images save_folder=s3://bucket/mae-6.5b

The same command again goes on with the same run, on another number of GPUs too. With `--print`, the resolved
configuration is shown, and where each value came from; nothing is trained.
"""

from maws_composer.config.manual import print_manual_if_asked
from maws_composer.resilience.notice import listen
from maws_composer.resilience.orphans import end_with_launcher

listen()  # before the slow imports: notice may be given, and a launcher killed, during them
end_with_launcher()
if __name__ == "__main__":
    print_manual_if_asked(__doc__)

import logging
import sys
from collections.abc import Sequence

from composer import Trainer
from composer.core import Time
from composer.devices import Device
from composer.utils import dist

from maws_composer.checkpoints.resume import Resume, is_finished, newest_checkpoint, require_same_results
from maws_composer.checkpoints.run_folder import RunFolder, keep_config, start_run
from maws_composer.checkpoints.saving import ShardedCheckpoints
from maws_composer.config.build import build_all
from maws_composer.config.command import check_and_work
from maws_composer.config.durations import samples
from maws_composer.config.load import LoadedRun
from maws_composer.config.plugins import load_with_ours
from maws_composer.data.loader import build_eval_loader, build_train_loader
from maws_composer.optim.build import build_optimizer
from maws_composer.optim.schedule import build_schedule
from maws_composer.parallel.agree import cpu_group, on_rank_zero
from maws_composer.parallel.precision import COMPOSER_PRECISION, build_device, insist_on_precision, torch_device
from maws_composer.parallel.shard import already_sharded, require_sharded, shard
from maws_composer.planning.microbatch import agree_on_memory
from maws_composer.planning.preflight import on_disk, preflight
from maws_composer.reporting.environment import note_start
from maws_composer.reporting.metrics_logger import MetricsFile
from maws_composer.reporting.opening import opening
from maws_composer.reporting.picture_logger import PictureFiles
from maws_composer.reporting.publishing import ReportAtCheckpoints, publish_report
from maws_composer.resilience.bad_samples import BadSamples
from maws_composer.resilience.history import RunHistory
from maws_composer.resilience.loss_spikes import LossSpikes
from maws_composer.resilience.meeting import meet
from maws_composer.resilience.preemption import Preemption, fit
from maws_composer.resilience.progress import ProgressOfTraining
from maws_composer.resilience.rewinding import finish_rewind
from maws_composer.resilience.status import status_of
from maws_composer.resilience.watchdog import watch_over
from maws_composer.stages.build import build_stage, callbacks_of
from maws_composer.weights.beginning import begin

log = logging.getLogger("maws_composer")


def train(loaded: LoadedRun) -> None:
    """The whole run, or as much of it as the machines stay for."""
    device = build_device(loaded.run.precision)
    meet(device, loaded.run.watchdog.meeting_limit, loaded.run.longest_wait)
    folder = start_run(loaded)
    with status_of(folder) as history, watch_over(folder, loaded.run.watchdog, history):
        train_in(folder, loaded, device, history)


def train_in(folder: RunFolder, loaded: LoadedRun, device: Device, history: RunHistory) -> None:
    """The run from its newest checkpoint on, in the order in which it happens."""
    run = loaded.run
    group = cpu_group(run.longest_wait)
    preemption = Preemption(run.preemption, group)
    preemption.leave_if_noticed()
    finish_rewind(folder)  # that an earlier process may have begun
    resume_from = newest_checkpoint(folder)
    if resume_from is not None:
        require_same_results(resume_from, loaded)
        if on_rank_zero(lambda: is_finished(resume_from, folder, samples(run.max_duration))):
            log.info("%s is complete already: %s samples", run.save_folder, f"{resume_from.samples:,}")
            on_rank_zero(lambda: publish_report(folder, run.storage_patience))
            return
    on_rank_zero(lambda: keep_config(folder, loaded))
    on_rank_zero(lambda: note_start(folder, run, history.numbers))

    microbatch, speed = agree_on_memory(run)
    stage = build_stage(run)
    mesh = shard(stage, speed, run.precision, run.seed, torch_device())  # checkpointing, compile, FSDP2, parameters
    begin(stage, run, folder, resume_from)
    optimizer = build_optimizer(stage, run)
    checkpoints, spikes = ShardedCheckpoints(folder, run, group), LossSpikes(run, folder)
    train_loader = build_train_loader(run, stage.columns)
    log.info("%s", opening(run, stage, train_loader.dataloader.dataset, microbatch, speed, resume_from))
    trainer = Trainer(
        model=stage,
        train_dataloader=train_loader,
        eval_dataloader=build_eval_loader(run, stage.columns),
        optimizers=optimizer,
        schedulers=build_schedule(optimizer, run),
        algorithms=build_all("algorithm", run.algorithms, run),
        step_schedulers_every_batch=True,
        callbacks=[
            *([Resume(resume_from)] if resume_from else []),
            history,
            ProgressOfTraining(),
            BadSamples(run.data.train.max_bad_share, group),
            spikes,
            *callbacks_of(stage),
            preemption,
            *build_all("callback", run.callbacks, run),
            checkpoints,
            ReportAtCheckpoints(folder, checkpoints),
        ],
        loggers=[MetricsFile(folder.local), PictureFiles(folder.local), *build_all("logger", run.loggers, run)],
        max_duration=Time(samples(run.max_duration), "sp"),
        eval_interval=run.eval_interval if run.data.eval else 1,
        device=device,
        device_train_microbatch_size=microbatch,
        precision=COMPOSER_PRECISION[run.precision],
        parallelism_config={"fsdp": already_sharded()},
        deterministic_mode=run.deterministic,
        seed=run.seed,
        run_name=run.run_name,
        progress_bar=False,  # one of `loggers:`
        auto_log_hparams=False,
    )
    require_sharded(stage, mesh)
    insist_on_precision(run.precision)
    fit(trainer, preemption, checkpoints, spikes)
    trainer.close()
    on_rank_zero(lambda: publish_report(folder, run.storage_patience))


def main(arguments: Sequence[str]) -> int:
    """Check everything, then train. Returns the exit code: 2 for mistakes in the configuration."""
    world_size, nodes = dist.get_world_size(), dist.get_world_size() // dist.get_local_world_size()
    return check_and_work(
        arguments,
        load=lambda config, overrides, also: load_with_ours(config, overrides, world_size, nodes, also),
        on_disk=on_disk,
        preflight=lambda loaded: preflight(loaded, world_size, nodes),
        work=train,
    )


if __name__ == "__main__":  # loader workers may import this file again
    sys.exit(main(sys.argv[1:]))
