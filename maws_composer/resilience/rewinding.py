"""Going back to a checkpoint without leaving the process, after a loss spike.

Later checkpoints were trained on batches that are left out from now on, so they are deleted, lest a run that is killed
goes on from one of them. `skips.json` says so before it begins: a process that ends in the middle of it is made up for
by the next.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from composer import Trainer
from composer.core import Event

from maws_composer.checkpoints.completeness import Checkpoint, RunPath, read_newest_first
from maws_composer.checkpoints.resume import Resume, ResumePoint, newest_checkpoint
from maws_composer.checkpoints.retention import delete_checkpoint, remove_folder
from maws_composer.checkpoints.run_folder import RunFolder
from maws_composer.checkpoints.saving import ShardedCheckpoints
from maws_composer.parallel.agree import on_rank_zero, once_per_node
from maws_composer.resilience.loss_spikes import DivergedError, LossSpikes, RewindError
from maws_composer.resilience.skips import Spike, read_skips, write_skips

log = logging.getLogger(__name__)


def rewind(trainer: Trainer, error: RewindError, spikes: LossSpikes, checkpoints: ShardedCheckpoints) -> None:
    """Have the trainer stand at a checkpoint before a spike, and leave out the batches around that. A collective.

    It is the newest that has seen none of the `skip_before` batches before the spike; where there is none, the oldest.

    Raises:
        DivergedError: there is no checkpoint before the spike, or none that is whole.
    """
    folder, settings, batch = spikes.folder, spikes.settings, error.batch
    checkpoints.settle()  # all that was saved is where the run lives
    before = batch - settings.skip_before
    target = on_rank_zero(lambda: folder.insist(lambda: _choose(folder.home / "checkpoints", before), "checkpoints"))
    if target is None:
        raise DivergedError(
            f"{error}, and there is no checkpoint before it to go back to. Start again with loss_spikes.action=skip to "
            "go on without this batch, or with a shorter save_interval"
        )
    first, last = max(before, target + 1), batch + settings.skip_after
    spikes.remember(Spike(batch, first, last), discard_after=target)
    finish_rewind(folder)
    checkpoint = newest_checkpoint(folder)  # an older one, where the target is damaged
    if checkpoint is None:
        raise DivergedError(
            f"{error}, and no checkpoint before it is whole: the log above says what is damaged. The same command "
            f"begins the run anew, without batches {first} to {last}"
        )
    _load(trainer, checkpoint)
    log.warning("back to batch %d; batches %d to %d are left out", trainer.state.timestamp.batch.value, first, last)
    trainer.engine.run_event(Event.AFTER_LOAD)


def finish_rewind(folder: RunFolder) -> None:
    """Delete checkpoints that the run has gone back behind. A collective, and nothing if there are none."""
    skips = on_rank_zero(lambda: read_skips(folder))
    after = skips.discard_after
    if after is None:
        return
    if folder.is_remote:
        once_per_node(lambda: _discard(folder.checkpoints, after))
    on_rank_zero(lambda: folder.insist(lambda: _discard(folder.home / "checkpoints", after), "checkpoints"))
    on_rank_zero(lambda: write_skips(folder, replace(skips, discard_after=None)))


def _choose(checkpoints: RunPath, first_left_out: int) -> int | None:
    """The batch of the checkpoint to go back to."""
    complete = [found.batch for found in read_newest_first(checkpoints) if isinstance(found, Checkpoint)]
    return next((batch for batch in complete if batch < first_left_out), complete[-1] if complete else None)


def _discard(checkpoints: RunPath, after: int) -> None:
    for found in read_newest_first(checkpoints):
        if isinstance(found, Checkpoint) and found.batch > after:
            log.warning("deleting %s: it was trained on batches that are left out now", found.folder)
            delete_checkpoint(checkpoints / found.name)
            for export in (found.name, f"{found.name}.pt"):  # of callbacks.export_on_checkpoint
                _delete(checkpoints.parent / "exports" / export)


def _delete(path: RunPath) -> None:
    if path.is_dir():
        remove_folder(path)
    elif path.exists():
        path.unlink()


def _load(trainer: Trainer, checkpoint: ResumePoint) -> None:
    """As at the start of a process."""
    state = trainer.state
    for optimizer in state.optimizers:
        optimizer.zero_grad(set_to_none=True)
    for metrics in state.eval_metrics.values():
        for metric in metrics.values():
            metric.reset()  # what it has computed would be looked for in a checkpoint from before
    Resume(checkpoint).before_load(state, trainer.logger)
