"""A checkpoint is complete, or it does not exist."""

import json
from pathlib import Path

from maws_composer.checkpoints.completeness import newest_complete, write_marker
from maws_composer.checkpoints.resume import ResumePoint, is_finished
from maws_composer.checkpoints.run_folder import RunFolder
from tests.checkpoints.saved import save


def reasons(checkpoints: Path) -> list[str]:
    return [passed.reason for passed in newest_complete(checkpoints)[1]]


def test_a_run_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert newest_complete(tmp_path / "nowhere") == (None, [])


def test_the_newest_is_the_one_with_most_batches_whatever_its_epoch(tmp_path: Path) -> None:
    save(tmp_path / "ep0-ba9", a=b"x")
    save(tmp_path / "ep1-ba100", a=b"x")
    newest = save(tmp_path / "ep0-ba101", a=b"xyz")
    found, passed_over = newest_complete(tmp_path)
    assert found is not None and not passed_over
    assert (found.folder, found.batch, found.samples, found.files) == (str(newest), 101, 64, {"a": 3})


def test_a_cut_off_one_is_passed_over_with_the_reason(tmp_path: Path) -> None:
    good = save(tmp_path / "ep0-ba10", a=b"x")
    (tmp_path / "ep0-ba20").mkdir()
    save(tmp_path / "ep0-ba30", a=b"xyz")
    (tmp_path / "ep0-ba30" / "a").write_bytes(b"xy")
    save(tmp_path / "ep0-ba40", a=b"xyz")
    (tmp_path / "ep0-ba40" / "a").unlink()
    save(tmp_path / "ep0-ba50", a=b"x")
    (tmp_path / "ep0-ba50" / "complete.json").write_text('{"files": {"a"')
    newest, passed_over = newest_complete(tmp_path)
    assert newest is not None and newest.folder == str(good)
    assert [passed.reason for passed in passed_over] == [
        "its complete.json is not readable",
        "a is missing; 3 bytes were written",
        "a has 2 bytes; 3 bytes were written",
        "it has no complete.json: saving or uploading it was cut off",
    ]


def test_a_run_is_not_finished_before_every_evaluation_that_it_owes_is_made(tmp_path: Path) -> None:
    folder = save(tmp_path / "checkpoints" / "ep0-ba10", a=b"x")
    write_marker(folder, {"a": 1}, samples=64, world_size=1, owes=("metrics/", "eval/"))
    found, _ = newest_complete(tmp_path / "checkpoints")
    assert found is not None
    run, resumed = RunFolder(str(tmp_path), tmp_path), ResumePoint(folder, found.samples, found.owes)
    step = {"batch": 10, "loss": 0.5}
    for figures in ({}, {"metrics/eval/loss": 1}, {"eval/knn/top1": 1}):
        (tmp_path / "metrics.jsonl").write_text(json.dumps({**step, **figures}) + "\n")
        assert not is_finished(resumed, run, 64)
    (tmp_path / "metrics.jsonl").write_text(json.dumps({**step, "metrics/eval/loss": 1, "eval/knn/top1": 1}) + "\n")
    assert is_finished(resumed, run, 64) and not is_finished(resumed, run, 65)


def test_a_marker_cannot_point_outside_of_its_folder(tmp_path: Path) -> None:
    folder = save(tmp_path / "ep0-ba10", a=b"x")
    write_marker(folder, {"../../secret": 6}, samples=1, world_size=1)
    assert reasons(tmp_path) == ["complete.json names '../../secret', which is outside of the folder"]


def test_other_folders_are_none_of_our_business(tmp_path: Path) -> None:
    save(tmp_path / "ep0-ba10.partial", a=b"x")
    save(tmp_path / "mine", a=b"x")
    assert newest_complete(tmp_path) == (None, [])
