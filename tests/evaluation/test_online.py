"""Evaluations inside of training."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from maws_composer.config.plugins import load_with_ours
from maws_composer.config.problems import ConfigError
from maws_composer.data.classes import CLASSES_FILE
from maws_composer.planning.preflight import preflight
from tests.data.shards import write_shards
from tests.evaluation.labelled import write_labelled
from tests.labelled import classes_of
from tests.moments import after_steps, to_rank
from tests.runs import Runs

SECTION = "callbacks.online_evaluation"


def online_evaluation(folder: Path, train: int, test: int) -> tuple[str, ...]:
    """Overrides that evaluate every five steps, on so many pictures."""
    write_labelled(folder / "train", train)
    write_labelled(folder / "test", test, seed=1)
    return (
        f"{SECTION}.every=80sp", f"{SECTION}.feature=mean_patch_token", f"{SECTION}.evaluations.knn.k=5",
        f"{SECTION}.train.local={folder / 'train'}", f"{SECTION}.test.local={folder / 'test'}",
    )  # fmt: skip


def test_evaluations_while_training_change_nothing_in_it(runs: Runs, tmp_path: Path) -> None:
    online = (*online_evaluation(tmp_path, 60, 21), "speed.device_eval_batch_size=16")
    alone, evaluated = runs("alone", "max_duration=256sp"), runs("evaluated", "max_duration=256sp", *online)
    assert evaluated.code == 0, evaluated.output
    assert evaluated.losses == alone.losses and len(alone.losses) == 16
    figures = {step["batch"]: step["eval/knn/top1"] for step in evaluated.steps if "eval/knn/top1" in step}
    assert list(figures) == [5, 10, 15] and all(figure > 0.9 for figure in figures.values())
    with pytest.raises(ConfigError) as refused:
        load_with_ours(runs.recipe, [*online, f"{SECTION}.evaluations.knnn=null"])
    (problem,) = refused.value.problems
    assert problem.path == f"{SECTION}.evaluations"
    assert problem.message.startswith("unknown evaluation 'knnn'; nearest is knn; looked in maws_composer")


@pytest.mark.slow
def test_a_notice_does_not_wait_for_an_evaluation_which_is_made_up_for(runs: Runs, tmp_path: Path) -> None:
    online = (*online_evaluation(tmp_path, 21, 21), "max_duration=128sp")
    # The notice comes in the step after which an evaluation is due.
    slow = ("code_paths=[tests/plugins]", "callbacks.sleep_at.batch=4", "callbacks.sleep_at.seconds=3")
    cut = runs("cut", *online, *slow, notify=to_rank(0, signal.SIGTERM, after_steps(4)))
    assert cut.code == 0, cut.output
    assert len(cut.steps) == 5 and not any("eval/knn/top1" in step for step in cut.steps)
    again = runs("cut", *online)
    assert again.code == 0, again.output
    assert [step["batch"] for step in again.steps if "eval/knn/top1" in step] == [5]
    assert again.losses == runs("alone", "max_duration=128sp").losses


@pytest.mark.slow
def test_an_evaluation_after_the_last_step_is_made_up_for_too(runs: Runs, tmp_path: Path) -> None:
    online = (*online_evaluation(tmp_path, 21, 21), "max_duration=80sp")
    slow = ("code_paths=[tests/plugins]", "callbacks.sleep_at.batch=4", "callbacks.sleep_at.seconds=3")
    cut = runs("cut", *online, *slow, notify=to_rank(0, signal.SIGTERM, after_steps(4)))
    assert cut.code == 0 and cut.status["state"] == "preempted", cut.output
    assert len(cut.steps) == 5 and not any("eval/knn/top1" in step for step in cut.steps)
    again = runs("cut", *online)
    assert again.code == 0 and again.status["state"] == "finished", again.output
    assert [step["batch"] for step in again.steps if "eval/knn/top1" in step] == [5]
    assert "is complete already" in runs("cut", *online).output


def problems_of(runs: Runs, *overrides: str) -> list[str]:
    given = [f"{SECTION}.{override}" for override in ("every=80sp", *overrides)]
    with pytest.raises(ConfigError) as refused:
        preflight(load_with_ours(runs.recipe, given, 1), world_size=1, nodes=1)
    return [f"{problem.path.removeprefix(SECTION)}: {problem.message}" for problem in refused.value.problems]


def test_what_will_fail_is_told_before_training(runs: Runs, tmp_path: Path) -> None:
    train, test, other = (tmp_path / name for name in ("train", "test", "other"))
    for folder in (train, test):
        write_labelled(folder, 20)
    write_shards(other, 20)
    knn = ("evaluations.knn.k=5", f"train.local={train}")
    assert problems_of(runs, *knn, f"test.local={tmp_path}/missing", "train.resize=8") == [
        ".train.resize: 8 is less than the image_size, 24",
        f".test.local: {tmp_path}/missing does not exist; python -m streaming_conversion makes shards of images",
    ]
    assert problems_of(runs, *knn, f"test.local={other}") == [
        f".test.columns.labels: {other} has no column labels; it has id, image"
    ]
    for folder, classes in ((train, classes_of([[n] for n in range(4)])), (test, classes_of([[0], [1], [2]]))):
        (folder / CLASSES_FILE).write_text(classes.to_json())
    elsewhere, beyond = problems_of(runs, *knn, f"test.local={test}")
    assert elsewhere == f".test: its classes.json numbers other classes than that of {SECTION}.train"
    assert beyond.startswith(".test.local: 0 (sample 0 of ") and "has label 3; there are classes 0 to 2" in beyond
    (test / CLASSES_FILE).write_text("{")
    (damaged,) = problems_of(runs, *knn, f"test.local={test}")
    assert damaged.startswith(f".test.local: {test}: classes.json is damaged")
    assert problems_of(runs, "evaluations.zero_shot=null", f"test.local={train}") == [
        ".evaluations: this stage has no text tower; remove zero_shot"
    ]
