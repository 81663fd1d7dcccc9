"""What a run is does not depend on how many processes do it, nor on how they are counted as nodes.

Real launchers, real processes, CPU and gloo: batches, crops, masks, losses, learning rates and evaluations of one
process, not interrupted, against those of a run that is killed and goes on elsewhere.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from PIL import Image

from tests.runs import Finished, Runs

STEPS, BATCH = 40, 24  # of 1, 2, 3 or 4 processes
# batch -> (id, digest of the crop, digest of the mask) of each of its samples
Inputs = dict[int, set[tuple[str, ...]]]


@pytest.fixture(scope="module")
def anywhere(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Runs:
    return Runs(tmp_path_factory.mktemp("anywhere"), images)


@pytest.fixture(scope="module")
def whole(anywhere: Runs, images: Path) -> Finished:
    finished = anywhere("whole", *settings(anywhere, "whole", images))
    assert finished.code == 0, finished.output
    assert len(finished.losses) == STEPS
    return finished


def settings(runs: Runs, name: str, images: Path) -> tuple[str, ...]:
    return (
        f"global_train_batch_size={BATCH}", f"max_duration={STEPS * BATCH}sp", "data.train.num_canonical_nodes=12",
        f"data.eval.local={images}", "eval_interval=8ba", "speed.device_eval_batch_size=56", "save_interval=5ba",
        "code_paths=[tests/plugins]", f"callbacks.record_inputs.folder={runs.folder / f'inputs-{name}'}",
        "callbacks.learning_rates={}", "callbacks.reconstructions.images=6",
    )  # fmt: skip


def inputs_of(folder: Path) -> Inputs:
    """What was trained on; of a step that was done twice, both have to be the same."""
    parts: dict[tuple[int, int], list[tuple[str, ...]]] = {}
    for file in sorted(folder.glob("inputs-rank*.jsonl")):
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            parts.setdefault((entry["batch"], entry["world_size"]), []).extend(map(tuple, entry["rows"]))
    inputs: Inputs = {}
    for (batch, _), rows in sorted(parts.items()):
        if len(rows) == BATCH:  # or some ranks were killed before they wrote
            assert inputs.setdefault(batch, set(rows)) == set(rows)
    return inputs


def same_run(moved: Finished, whole: Finished) -> None:
    """Losses and evaluations to the order of sums, learning rates and inputs exactly."""
    assert moved.code == 0, moved.output
    assert_allclose(moved.losses, whole.losses, rtol=1e-5)
    assert [step["samples"] for step in moved.steps] == [BATCH * (batch + 1) for batch in range(STEPS)]
    for name in ("lr/decayed", "lr/not decayed"):
        assert [step[name] for step in moved.steps] == [step[name] for step in whole.steps]
    before, after = (
        {step["batch"]: step["metrics/eval/loss"] for step in run.steps if "metrics/eval/loss" in step}
        for run in (whole, moved)
    )
    assert list(before) == list(after) == [8, 16, 24, 32, 40]
    assert_allclose([*after.values()], [*before.values()], rtol=1e-5)
    before, after = (
        np.asarray(Image.open(run.folder / "pictures" / f"reconstructions-ba{STEPS}.png"), int)
        for run in (whole, moved)
    )
    assert before.shape == after.shape and abs(before - after).max() <= 2
    expected, found = (inputs_of(run.folder.parent / f"inputs-{run.folder.name}") for run in (whole, moved))
    assert set(expected) == {*range(1, STEPS + 1)}
    assert found == expected and all(len(rows) == BATCH for rows in found.values())


def test_three_processes_then_two_nodes_of_one_are_the_same_run(whole: Finished, anywhere: Runs, images: Path) -> None:
    given = settings(anywhere, "moved", images)
    anywhere("moved", *given, processes=3, kill_after=19)
    moved = anywhere("moved", *given, processes=2, nodes=2)
    assert "on 2 processes, saved on 3" in moved.output
    same_run(moved, whole)


@pytest.mark.slow
def test_several_crops_of_each_image_are_the_same_on_other_processes(anywhere: Runs) -> None:
    steps, crops = 20, 4

    def options(name: str) -> tuple[str, ...]:
        return (
            f"global_train_batch_size={BATCH}", f"max_duration={steps * BATCH}sp", "save_interval=5ba",
            f"data.train.repeated_augmentation={crops}", "data.train.num_canonical_nodes=2",
            "code_paths=[tests/plugins]", f"callbacks.record_inputs.folder={anywhere.folder / f'inputs-{name}'}",
        )  # fmt: skip

    repeated = anywhere("repeated", *options("repeated"))
    anywhere("resumed", *options("resumed"), processes=2, kill_after_saving=10)
    resumed = anywhere("resumed", *options("resumed"), processes=3)
    assert repeated.code == resumed.code == 0, repeated.output + resumed.output
    assert "on 3 processes, saved on 2" in resumed.output
    assert_allclose(resumed.losses, repeated.losses, rtol=1e-5)
    assert [step["samples"] for step in resumed.steps] == [BATCH * (batch + 1) for batch in range(steps)]
    expected, found = (inputs_of(anywhere.folder / f"inputs-{name}") for name in ("repeated", "resumed"))
    assert found == expected and set(expected) == {*range(1, steps + 1)}
    for rows in expected.values():
        assert len(rows) == BATCH  # no two crops are the same
        assert set(Counter(row[0] for row in rows).values()) == {crops}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_four_three_one_and_two_processes_are_the_same_run(whole: Finished, anywhere: Runs, images: Path) -> None:
    given = settings(anywhere, "wandering", images)
    for processes, nodes, until in ((4, 2, 11), (3, 3, 22), (1, 1, 33)):
        anywhere("wandering", *given, processes=processes, nodes=nodes, kill_after=until, timeout=500)
    same_run(anywhere("wandering", *given, "speed.device_train_microbatch_size=5", processes=2), whole)
