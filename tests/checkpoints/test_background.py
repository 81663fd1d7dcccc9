"""Checkpoints are written while training goes on: the same bytes, one at a time, and none is lost at the end."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from torch.distributed.checkpoint.metadata import Metadata

from maws_composer.checkpoints.checksums import find_damage
from maws_composer.checkpoints.completeness import Checkpoint, read_newest_first
from maws_composer.checkpoints.safe_reading import SafeReader
from tests.processes import run_ranks
from tests.runs import Finished, Runs, ranks, steps_done

SHORT = ("max_duration=480sp", "save_interval=10ba", "code_paths=[tests/plugins]")
SLOW = (*SHORT, "callbacks.slow_disk.seconds=3")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Finished:
    """30 steps, saved in the background; after ten of them Composer saves too, to `theirs`."""
    folder = tmp_path_factory.mktemp("whole")
    saving = f"callbacks.save_as_composer={{batch: 10, folder: {folder / 'theirs'}}}"
    finished = Runs(folder, images)("whole", *SHORT, saving, processes=2)
    assert finished.code == 0, finished.output
    return finished


def whole_ones(finished: Finished) -> list[int]:
    """Batches of the checkpoints that are complete to the last byte; there are no others."""
    batches = []
    for found in read_newest_first(finished.folder / "checkpoints"):
        assert isinstance(found, Checkpoint), found
        assert found.checksums.keys() == found.files.keys()
        assert not find_damage(Path(found.folder), found, found.files)
        batches.append(found.batch)
    return sorted(batches)


def test_what_is_written_is_what_composer_writes(whole: Finished) -> None:
    assert whole_ones(whole) == [10, 20, 30]
    ours, theirs = whole.folder / "checkpoints" / "ep0-ba10", whole.folder.parent / "theirs" / "ep0-ba10"
    for shard in ("__0_0.distcp", "__1_0.distcp"):
        assert (ours / shard).read_bytes() == (theirs / shard).read_bytes()
    assert entries(ours) == entries(theirs)


@pytest.mark.slow
def test_of_replicas_the_same_is_written_too(runs: Runs) -> None:
    saving = f"callbacks.save_as_composer={{batch: 10, folder: {runs.folder / 'theirs'}}}"
    finished = runs("replicas", *SHORT, saving, "max_duration=160sp", "speed.sharding.shard=1", processes=2)
    assert finished.code == 0 and whole_ones(finished) == [10], finished.output
    ours, theirs = finished.folder / "checkpoints" / "ep0-ba10", runs.folder / "theirs" / "ep0-ba10"
    assert (ours / "__0_0.distcp").read_bytes() == (theirs / "__0_0.distcp").read_bytes()
    assert {path.name for path in ours.glob("*.distcp")} == {path.name for path in theirs.glob("*.distcp")}
    assert entries(ours) == entries(theirs)


def entries(checkpoint: Path) -> tuple:
    metadata: Metadata = SafeReader(checkpoint).read_metadata()
    return metadata.state_dict_metadata, metadata.storage_data


@pytest.mark.slow
def test_training_goes_on_while_a_slow_disk_writes_one_checkpoint_at_a_time(whole: Finished, runs: Runs) -> None:
    slow = runs("slow", *SLOW, processes=2)
    assert slow.code == 0, slow.output
    assert whole_ones(slow) == [10, 20, 30]
    assert slow.losses == whole.losses
    saved = re.findall(r"saved \S+: [\d.]+ MB in ([\d.]+) s; training waited for ([\d.]+) s", slow.output)
    assert len(saved) == 3
    for seconds, waited in saved:
        assert float(seconds) > 3 > float(waited)
    assert "waiting for the checkpoint that is being saved" in slow.output  # the last one


@pytest.mark.slow
def test_while_training_waits_the_same_is_saved(whole: Finished, runs: Runs) -> None:
    waiting = runs("waiting", *SHORT, "save_async=false", processes=2)
    assert waiting.code == 0 and "training waited" not in waiting.output
    assert waiting.losses == whole.losses
    for shard in ("__0_0.distcp", "__1_0.distcp"):
        ours, theirs = (finished.folder / "checkpoints" / "ep0-ba20" / shard for finished in (waiting, whole))
        assert ours.stat().st_size == theirs.stat().st_size


@pytest.mark.slow
def test_a_notice_waits_for_the_checkpoint_under_way_and_saves_its_own(runs: Runs) -> None:
    def while_saving(launcher: int, run_folder: Path, log: Path) -> bool:
        if steps_done(run_folder) < 11:
            return False
        os.kill(ranks(launcher)[1], signal.SIGTERM)
        return True

    cut = runs("notified", *SLOW, processes=2, notify=while_saving)
    assert cut.code == 0, cut.output
    status = cut.status
    assert status["state"] == "preempted" and whole_ones(cut) == [10, status["batch"]]


@pytest.mark.slow
def test_an_error_in_training_does_not_cost_the_checkpoint_under_way(runs: Runs) -> None:
    failed = runs("failed", *SLOW, "callbacks.fail_at={batch: 12, rank: 1}", processes=2)
    assert failed.code != 0 and "a bug of this plugin" in failed.output
    assert whole_ones(failed) == [10]


def test_what_fails_on_one_rank_is_raised_on_all_at_the_same_step() -> None:
    first, second = run_ranks(Path(__file__).parent / "looking.py", {}, world_size=2)
    assert first["step"] == second["step"] > 0
    assert first["said"] == second["said"] == "the disk of rank 1 is full"


@pytest.mark.slow
def test_what_is_killed_while_saving_leaves_the_one_before(runs: Runs) -> None:
    runs("killed", *SLOW, processes=2, kill_after=21)
    again = runs("killed", *SHORT)
    assert "ep0-ba20: it has no complete.json: saving or uploading it was cut off" in again.output
    assert "resumed" in again.output and whole_ones(again) == [10, 20, 30]
