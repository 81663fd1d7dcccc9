"""The promise of the project: lose anything, start again on what is left, and get the same training run.

Real launchers, real processes, CPU and gloo. Losses are compared over 50 steps, which cross the end of an epoch.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest
from numpy.testing import assert_allclose
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.runs import GLOBAL_BATCH, IMAGES, Finished, Runs
from tests.s3_server import S3Server, rclone
from tests.samples import samples_of

RECORD_IDS = ("code_paths=[tests/plugins]",)
STEPS_PER_EPOCH = IMAGES // GLOBAL_BATCH


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Finished:
    """50 steps of one process, not interrupted."""
    finished = Runs(tmp_path_factory.mktemp("whole"), images)("whole")
    assert finished.code == 0, finished.output
    assert len(finished.losses) == 50
    return finished


def same_bits(finished: Finished, whole: Finished) -> None:
    assert finished.code == 0, finished.output
    assert finished.losses == whole.losses


def same_curve(finished: Finished, whole: Finished) -> None:
    assert finished.code == 0, finished.output
    assert_allclose(finished.losses, whole.losses, rtol=1e-5)


@pytest.mark.slow
def test_two_processes_that_evaluate_in_other_microbatches_give_the_same_curve(
    whole: Finished, runs: Runs, images: Path
) -> None:
    evaluating = (f"data.eval.local={images}", "eval_interval=25ba", "callbacks.reconstructions.images=3")
    evaluating = (*evaluating, "loggers.tensorboard={}")
    two = runs("two", "speed.workers=2", "speed.device_train_microbatch_size=3", *evaluating, processes=2)
    assert "2 processes = 1 replica x 2 shards; blocks stay gathered for the backward pass" in two.output
    same_curve(two, whole)
    evaluated = [step["metrics/eval/loss"] for step in two.steps if "metrics/eval/loss" in step]
    assert len(evaluated) == 2 and evaluated[1] < evaluated[0]
    assert (two.folder / "pictures" / "reconstructions-ba50.png").exists()
    assert tensorboard_steps(two.folder, "loss/train/total") == list(range(1, 51))
    report = (two.folder / "report.html").read_text()
    assert "data:image/png" in report and "trained on all samples" in report


def test_killed_and_started_again_gives_the_same_bits(whole: Finished, runs: Runs) -> None:
    runs("killed", "loggers.progress_bar={}", kill_after=17)
    again = runs("killed", "loggers.progress_bar={}")
    assert "ep0-ba10 at batch 10, sample 160" in again.output
    same_bits(again, whole)


def test_losing_half_of_the_processes_changes_neither_curve_nor_samples(whole: Finished, runs: Runs) -> None:
    record = (*RECORD_IDS, f"callbacks.record_ids.folder={runs.folder / 'ids'}")
    runs("cut", *record, processes=2, kill_after=37)
    cut = runs("cut", *record, processes=1)
    same_curve(cut, whole)
    batches = samples_of(runs.folder / "ids")
    first_epoch = Counter(chain.from_iterable(batches[step] for step in range(STEPS_PER_EPOCH)))
    assert set(first_epoch.values()) == {1} and len(first_epoch) == IMAGES  # every sample of the epoch exactly once
    assert set(batches) == set(range(50))


@pytest.mark.slow
def test_gaining_processes_does_not_change_the_curve(whole: Finished, runs: Runs) -> None:
    runs("grown", processes=1, kill_after=24)
    same_curve(runs("grown", "speed.workers=1", processes=2), whole)


@pytest.mark.slow
def test_replicas_of_shards_on_four_processes_give_the_same_curve(whole: Finished, runs: Runs) -> None:
    four = runs("four", "speed.sharding.shard=2", "speed.workers=1", processes=4, timeout=500)
    assert "4 processes = 2 replicas x 2 shards" in four.output
    same_curve(four, whole)


@pytest.mark.slow
def test_killed_after_the_end_of_an_epoch_it_goes_on_with_the_next(whole: Finished, runs: Runs) -> None:
    every_epoch = f"save_interval={STEPS_PER_EPOCH}ba"
    runs("epochs", every_epoch, kill_after=40)
    again = runs("epochs", every_epoch)
    assert f"at batch {STEPS_PER_EPOCH}, sample {IMAGES}" in again.output
    same_bits(again, whole)


def test_a_finished_run_is_not_run_again(whole: Finished, runs: Runs) -> None:
    shutil.copytree(whole.folder, runs.folder / "done")
    lines = (whole.folder / "metrics.jsonl").read_text()
    again = runs("done")
    assert "is complete already: 800 samples" in again.output
    assert again.code == 0 and (again.folder / "metrics.jsonl").read_text() == lines


def test_a_run_goes_on_with_callbacks_that_its_checkpoint_has_not(whole: Finished, runs: Runs) -> None:
    shutil.copytree(whole.folder, runs.folder / "more")
    shutil.rmtree(runs.folder / "more" / "checkpoints" / "ep1-ba50")
    same_bits(runs("more", *RECORD_IDS, f"callbacks.record_ids.folder={runs.folder / 'ids'}"), whole)


@pytest.mark.skipif(rclone() is None, reason="rclone, of the extra `dev`, is not installed")
def test_data_and_run_in_object_storage(whole: Finished, images: Path, tmp_path: Path) -> None:
    """Killed, its local disk lost, and started again on another number of processes."""
    with S3Server(tmp_path / "s3") as server:
        shutil.copytree(images, server.bucket("bucket") / "images")
        runs = Runs(tmp_path, images, server.environment)
        remote = (
            "data.train.local=null", "data.train.remote=s3://bucket/images", "save_folder=s3://bucket/run",
            "callbacks.patch_embedding.every=10ba",
        )  # fmt: skip
        runs("remote", *remote, f"speed.scratch_folder={tmp_path / 'one'}", kill_after_saving=20, processes=2)
        shutil.rmtree(tmp_path / "one")
        server.stop()  # an upload that was cut off leaves this server busy with itself
        server.start()
        again = runs("remote", *remote, f"speed.scratch_folder={tmp_path / 'two'}")
        assert again.code == 0, again.output
        assert "downloading s3://bucket/run/checkpoints/ep0-ba" in again.output
        stored = server.bucket("bucket") / "run"
        same_curve(Finished(again.code, again.output, stored), whole)
        drawn = re.findall(r"patch_embedding, after batch (\d+)", (stored / "report.html").read_text())
        assert {*drawn} == {"10", "20", "30", "40", "50"}, "those that the lost machine drew included"
        kept = sorted(folder.name for folder in (stored / "checkpoints").iterdir() if any(folder.iterdir()))
        # save_num_checkpoints_to_keep; rclone's listings may be 50 ms old, so that one more may have been overlooked
        assert kept[-3:] == ["ep0-ba30", "ep1-ba40", "ep1-ba50"] and len(kept) <= 4


def tensorboard_steps(folder: Path, tag: str) -> list[int]:
    events = EventAccumulator(str(folder / "tensorboard" / folder.name))
    events.Reload()
    return sorted(event.step for event in events.Scalars(tag))


@pytest.mark.slow
def test_a_typo_is_told_once_and_whole_and_nothing_is_trained(runs: Runs) -> None:
    refused = runs("typo", "model.mask_ration=0.5", "loggers.wandbb={}", "data.train.local=/nowhere", processes=2)
    assert refused.code == 2
    message = refused.output[refused.output.index(str(runs.recipe)) :]
    assert message.startswith(f"{runs.recipe} has 3 problems:")
    assert refused.output.count("data.train.local   /nowhere does not exist") == 1
    assert refused.output.count("model.mask_ration  unknown key; nearest is model.mask_ratio") == 1
    assert refused.output.count("unknown logger 'wandbb'; nearest is wandb") == 1
    assert not refused.folder.exists()


def test_unreadable_data_is_told_before_anything_starts(runs: Runs) -> None:
    refused = runs("nowhere", "data.train.local=/nowhere")
    assert refused.code == 2
    assert "data.train.local" in refused.output and "/nowhere" in refused.output
    assert not refused.folder.exists()


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_the_run_before_it_is_saved(runs: Runs) -> None:
    diverged = runs("diverged", "optimizer.base_lr=1e30", "gradient_clip=null", "save_interval=20ba")
    assert diverged.code != 0
    assert "the loss is nan at batch" in diverged.output
    assert not list((diverged.folder / "checkpoints").iterdir())
