"""The project's promise on labelled shards with resampling: see tests/test_training.py."""

from __future__ import annotations

import math
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest
import yaml

from tests.labelled import long_tailed, write_labelled
from tests.resilience.test_loss_spikes import left_out, spoil
from tests.runs import Finished, Runs
from tests.samples import samples_of
from tests.test_training import RECORD_IDS, same_curve

GLOBAL_BATCH = 16
STEPS = 50
CLASSES = 12
IMAGES = 300


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled(tmp_path_factory.mktemp("labelled") / "train", long_tailed(IMAGES, CLASSES))


@pytest.fixture(scope="module")
def wsp(tmp_path_factory: pytest.TempPathFactory, labelled: Path) -> Runs:
    folder = tmp_path_factory.mktemp("wsp")
    runs = Runs(folder, labelled)
    recipe = {
        "stage": "wsp",
        "model": {"size": "vit_micro", "image_size": 24, "num_classes": CLASSES},
        "data": {
            "train": {
                "local": str(labelled),
                "resampling": {"threshold": 0.3},
                "num_canonical_nodes": 4,
                "shuffle_block_size": 128,
            },
            "eval": {"local": str(labelled)},
        },
        "global_train_batch_size": GLOBAL_BATCH,
        "max_duration": f"{STEPS * GLOBAL_BATCH}sp",
        "optimizer": {"base_lr": 0.02},
        "gradient_clip": 1.0,
        "save_interval": "10ba",
        "eval_interval": "25ba",
        "speed": {"workers": 0, "scratch_folder": str(folder / "scratch"), "device_eval_batch_size": 7},
    }
    runs.recipe.write_text(yaml.safe_dump(recipe))
    return runs


@pytest.fixture(scope="module")
def whole(wsp: Runs) -> Finished:
    """50 steps of one process, not interrupted: more than an epoch."""
    finished = wsp("whole", *recording(wsp, "whole"))
    assert finished.code == 0, finished.output
    assert len(finished.losses) == STEPS
    return finished


def recording(wsp: Runs, name: str) -> tuple[str, ...]:
    return (*RECORD_IDS, f"callbacks.record_ids.folder={wsp.folder / f'ids-{name}'}")


def test_it_starts_with_all_classes_equally_likely_and_learns(whole: Finished) -> None:
    assert whole.losses[0] == pytest.approx(math.log(CLASSES), rel=1e-6)
    evaluated = [step for step in whole.steps if "metrics/eval/loss" in step]
    assert len(evaluated) == 2 and evaluated[1]["metrics/eval/loss"] < math.log(CLASSES) - 0.05
    last = {name.removeprefix("metrics/eval/"): value for name, value in evaluated[1].items()}
    assert 0 < last["precision@1"] <= last["precision@5"] <= 1 and 0 < last["binned_map"] < 1
    thirds = [f"{name}_{third}" for name in ("precision@1", "binned_map") for third in ("head", "middle", "tail")]
    assert all(0 <= last[name] <= 1 for name in thirds)
    assert last["binned_map"] == pytest.approx(sum(last[name] for name in thirds[3:]) / 3)  # each has four classes


def test_losing_half_of_the_processes_changes_neither_curve_nor_samples_nor_metrics(whole: Finished, wsp: Runs) -> None:
    microbatches = "speed.device_train_microbatch_size=3"  # 8 samples per process: the last one is smaller
    wsp("cut", *recording(wsp, "cut"), microbatches, processes=2, kill_after=30)
    cut = wsp("cut", *recording(wsp, "cut"), processes=1)
    same_curve(cut, whole)
    before, after = (samples_of(wsp.folder / f"ids-{name}") for name in ("whole", "cut"))
    assert set(before) == set(range(STEPS))
    assert all(Counter(before[step]) == Counter(after[step]) for step in before)
    drawn = Counter(chain.from_iterable(before[step] for step in range(IMAGES // GLOBAL_BATCH)))
    assert max(drawn.values()) > 1  # images of rare classes are repeated
    for step, expected in zip(cut.steps, whole.steps, strict=True):
        metrics = {name: value for name, value in expected.items() if name.startswith("metrics/eval/")}
        for name in metrics:  # an image at the edge of a bin may fall on either side
            tolerance = {"abs": 0.02} if "binned" in name else {"rel": 1e-4}
            assert step[name] == pytest.approx(metrics[name], **tolerance)


@pytest.mark.slow
def test_another_resampling_is_refused_at_resume(whole: Finished, wsp: Runs) -> None:
    changed = wsp("whole", "data.train.resampling.threshold=0.1", "allow_changed_config=true", "max_duration=1600sp")
    assert changed.code == 2
    assert "data.train.resampling  was " in changed.output and "the order of samples would change" in changed.output


@pytest.mark.slow
def test_a_step_that_is_not_finite_is_left_out(wsp: Runs) -> None:
    short = ("max_duration=128sp", "eval_interval=100ba")
    told = wsp("told", *spoil("update", [5]), *short)
    skipped = wsp("skipped", *spoil("gradient", [5]), *short, "loss_spikes.action=skip")
    assert skipped.code == 0, skipped.output
    assert left_out(skipped) == [5]
    assert skipped.losses == told.losses
