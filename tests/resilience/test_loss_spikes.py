"""A step that goes wrong changes nothing, and the run is the one that was told so from the start.

The reference gives no parameter a gradient in the batches that are to be left out: AdamW itself passes them over then.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from numpy.testing import assert_allclose
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from maws_composer.checkpoints.safe_reading import SafePlanner, SafeReader
from maws_composer.resilience.skips import Skips, Spike
from maws_composer.weights.sources import open_encoder
from tests.runs import Finished, Runs
from tests.s3_server import S3Server, rclone

LEFT_OUT = range(11, 21)  # between the checkpoints of batches 10 and 20
SPIKE, AROUND = 35, range(27, 38)


def spoil(what: str, batches: Sequence[int], factor: float = 1e300, parameter: str = "") -> tuple[str, ...]:
    settings = {"batches": list(batches), "what": what, "factor": factor, "parameter": parameter or "''"}
    return ("code_paths=[tests/plugins]", *(f"callbacks.spoil_step.{key}={value}" for key, value in settings.items()))


SKIPPING = (*spoil("gradient", LEFT_OUT, parameter="blocks.1.mlp"), "loss_spikes.action=skip")
SKIPPING = (*SKIPPING, "loss_spikes.max_in_a_row=10", "save_num_checkpoints_to_keep=9")

REWINDING = (*spoil("loss", [SPIKE], factor=1000), "loss_spikes.action=rewind", "loss_spikes.outliers.window=16")
REWINDING = (*REWINDING, "loss_spikes.skip_before=8", "loss_spikes.skip_after=2")


@pytest.fixture(scope="module")
def told_to_rewind(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Finished:
    """What a run that goes back because of a spike has to come to."""
    told = Runs(tmp_path_factory.mktemp("told"), images)("told", *spoil("update", AROUND))
    assert told.code == 0, told.output
    return told


def left_out(finished: Finished) -> list[int]:
    return [step["batch"] for step in finished.steps if step.get("skipped")]


def without_spike(finished: Finished) -> list[float]:
    assert finished.code == 0, finished.output
    assert [step["batch"] for step in finished.steps] == [*range(1, 51)]
    return [step["loss"] for step in finished.steps if step["batch"] != SPIKE]


def evidence(finished: Finished, batch: int) -> dict:
    return json.loads((finished.folder / "spikes" / f"ba{batch}.json").read_text())


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Weights, moments and counts of steps."""
    reader = SafeReader(checkpoint)
    wanted = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in reader.read_metadata().state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata) and name.startswith(("state.model.", "state.optimizers."))
    }
    dcp.load(wanted, storage_reader=reader, planner=SafePlanner(), no_dist=True)
    return wanted


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_is_neither_applied_nor_saved(runs: Runs) -> None:
    """The loss of such a step is still good, and that of the next would come after the checkpoint."""
    stopped = runs("stopped", *spoil("gradient", [10], parameter="blocks.1.mlp.fc1.weight"), processes=2)
    assert stopped.code != 0
    assert not list((stopped.folder / "checkpoints").iterdir())
    status = stopped.status
    assert status["state"] == "failed" and status["reason"].startswith("DivergedError: the gradient's norm is inf")
    assert "in the backward pass first mae.encoder.blocks.1.mlp.fc1.weight; 16 samples, " in status["reason"]
    found = evidence(stopped, 10)
    assert len(set(found["ids"])) == 16 and found["positions"] == [*range(144, 160)]
    broken = [name for name, norm in found["gradient_norms"].items() if norm is None]
    assert broken == ["mae.encoder.blocks.1.mlp.fc1.weight"]


@pytest.mark.slow
def test_steps_that_are_skipped_leave_weights_and_moments_as_they_are(runs: Runs) -> None:
    told = runs("told", *spoil("update", LEFT_OUT), processes=2)
    skipped = runs("skipped", *SKIPPING, processes=2)
    assert skipped.code == 0, skipped.output
    assert left_out(skipped) == [*LEFT_OUT]
    assert skipped.losses == told.losses
    before, after = (tensors(skipped.folder / "checkpoints" / f"ep0-ba{batch}") for batch in (10, 20))
    assert len(before) > 100
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())

    runs("cut", *SKIPPING, processes=2, kill_after=26)
    cut = runs("cut", "loss_spikes.action=stop", processes=1)
    assert cut.code == 0, cut.output
    assert left_out(cut) == [*LEFT_OUT]
    assert_allclose(cut.losses, told.losses, rtol=1e-5)


def test_a_rewound_run_is_the_one_that_was_told_from_the_start(
    told_to_rewind: Finished, runs: Runs, images: Path
) -> None:
    evaluating = (f"data.eval.local={images}", "eval_interval=25ba", "speed.workers=1")
    rewound = runs("rewound", *REWINDING, *evaluating)
    assert without_spike(rewound) == without_spike(told_to_rewind)
    assert left_out(rewound) == [*AROUND]
    assert "ep0-ba20 at batch 20, sample 320" in rewound.output
    assert f"batches {AROUND[0]} to {AROUND[-1]} are left out" in rewound.output
    found = evidence(rewound, SPIKE)
    assert "; largest gradients: mae." in rewound.output and len(found["ids"]) == 16
    assert [step["batch"] for step in rewound.steps if "metrics/eval/loss" in step] == [25, 50]


@pytest.mark.slow
def test_a_rewound_run_that_is_killed_goes_on_without_the_batches(told_to_rewind: Finished, runs: Runs) -> None:
    runs("killed", *REWINDING, kill_after=SPIKE - 1 + 4, processes=2)  # four steps after going back
    again = runs("killed", *REWINDING, processes=1)
    assert "ep0-ba20 at batch 20, sample 320" in again.output and "going back" not in again.output
    assert left_out(again) == [*AROUND]
    assert_allclose(without_spike(again), without_spike(told_to_rewind), rtol=1e-5)


@pytest.mark.slow
def test_a_rewind_that_was_cut_off_is_completed_by_the_next_start(told_to_rewind: Finished, runs: Runs) -> None:
    begun = runs("begun", *REWINDING, kill_after_saving=30)
    skips = Skips((Spike(SPIKE, AROUND[0], AROUND[-1]),), discard_after=20)
    (begun.folder / "skips.json").write_text(skips.to_json())
    again = runs("begun", *REWINDING)
    assert "ep0-ba30: it was trained on batches that are left out now" in again.output
    assert without_spike(again) == without_spike(told_to_rewind)
    assert Skips.from_json((again.folder / "skips.json").read_text()).discard_after is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damaged", "said"),
    [((20,), "back to batch 10; batches 27 to 37 are left out"), ((10, 20), "no checkpoint before it is whole")],
)
def test_a_rewind_passes_over_what_is_damaged(damaged: tuple[int, ...], said: str, runs: Runs) -> None:
    def damage(launcher: int, run_folder: Path, log: Path) -> bool:
        if "ep0-ba20: " not in log.read_text():
            return False
        for batch in damaged:
            shard = run_folder / f"checkpoints/ep0-ba{batch}/__0_0.distcp"
            shard.write_bytes(bytes(shard.stat().st_size))
        return True

    rewound = runs("damaged", *REWINDING, "save_num_checkpoints_to_keep=9", notify=damage)
    assert said in rewound.output and (rewound.code == 0) == (damaged == (20,))


def test_spikes_without_end_end_the_run(runs: Runs) -> None:
    ended = runs("ended", *spoil("loss", range(12, 51)), "loss_spikes.action=skip", "loss_spikes.max_in_a_row=3")
    assert ended.code != 0
    assert "3 in a row (loss_spikes.max_in_a_row) before it" in ended.output
    assert left_out(ended) == [12, 13, 14]
    assert sorted(each.name for each in (ended.folder / "checkpoints").iterdir()) == ["ep0-ba10"]


def test_a_spike_right_behind_what_is_left_out_is_in_a_row_with_it() -> None:
    skips = Skips((Spike(35, 27, 37), Spike(38, 30, 40), Spike(60, 52, 62)))
    assert [skips.in_a_row(batch) for batch in (27, 28, 39, 41, 42, 63)] == [0, 1, 2, 2, 0, 1]
    assert [batch for batch in range(20, 70) if batch in skips] == [*range(27, 41), *range(52, 63)]
    assert Skips.from_json(skips.to_json()) == skips


@pytest.mark.slow
@pytest.mark.skipif(rclone() is None, reason="rclone, of the extra `dev`, is not installed")
def test_a_run_in_object_storage_goes_back_too(told_to_rewind: Finished, images: Path, tmp_path: Path) -> None:
    with S3Server(tmp_path / "s3") as server:
        server.bucket("bucket")
        runs = Runs(tmp_path, images, server.environment)
        remote = ("save_folder=s3://bucket/run", f"speed.scratch_folder={tmp_path / 'one'}")
        rewound = runs("remote", *REWINDING, *remote, processes=2)
        stored = Finished(rewound.code, rewound.output, server.bucket("bucket") / "run")
        assert_allclose(without_spike(stored), without_spike(told_to_rewind), rtol=1e-5)
        assert evidence(stored, SPIKE)["batch"] == SPIKE
        assert Skips.from_json((stored.folder / "skips.json").read_text()).spikes[0].batch == SPIKE


@pytest.mark.slow
def test_our_callbacks_go_back_with_the_run(told_to_rewind: Finished, runs: Runs) -> None:
    average = "callbacks.ema.half_life=160sp"
    ours = (
        "callbacks.throughput.every=1ba", "callbacks.norms.every=5ba", "callbacks.memory.every=5ba",
        "callbacks.learning_rates={}", "callbacks.early_abort.limits={loss: {above: 500}}",
        f"callbacks.heartbeat.file={runs.folder / 'sign'}",
        "callbacks.export_on_checkpoint={}", "callbacks.garbage_collection={}", "loggers.progress_bar={}",
    )  # fmt: skip
    rewound = runs("rewound", *REWINDING, *ours, average, processes=2)
    assert_allclose(without_spike(rewound), without_spike(told_to_rewind), rtol=1e-5)
    told = runs("told", *spoil("update", AROUND), average)
    theirs, ours_now = (open_encoder(f"{each.folder}#ema") for each in (told, rewound))
    for name in theirs.shapes:
        assert_allclose(ours_now.read(name), theirs.read(name), rtol=1e-4, atol=1e-5)
    for checkpoint in (rewound.folder / "checkpoints").iterdir():  # that of batch 30 was made twice
        saved, exported = (
            open_encoder(str(each)) for each in (checkpoint, rewound.folder / "exports" / checkpoint.name)
        )
        assert all(torch.equal(saved.read(name), exported.read(name)) for name in saved.shapes)
