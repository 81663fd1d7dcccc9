"""Runs in object storage are looked at from anywhere, and their pictures go with them from machine to machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from maws_composer.checkpoints.run_folder import RunFolder, fetch_pictures
from maws_composer.cli import main
from maws_composer.reporting.picture_logger import save_picture
from maws_composer.reporting.pictures import worth_carrying
from maws_composer.reporting.publishing import publish_report
from tests.reporting.synthetic import add_pictures, eventful_run
from tests.reporting.test_comparison import write_results
from tests.reporting.test_report import Page
from tests.s3_server import S3Server, rclone

needs_rclone = pytest.mark.skipif(rclone() is None, reason="rclone, of the extra `dev`, is not installed")


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with S3Server(tmp_path / "s3") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server.bucket("bucket")


@needs_rclone
def test_a_run_in_object_storage_has_the_page_that_it_would_have_here(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = eventful_run(tmp_path / "run")
    add_pictures(run)
    (run / "figures.json").write_text(json.dumps({"title": "Ridge probe", "rows": [{"mAP": 0.806}]}))
    shutil.copytree(run, bucket / "runs" / "mae")
    write_results(tmp_path / "evaluations", Path("nowhere"), 0.8125, "class_token")
    results = tmp_path / "evaluations" / "results.json"
    results.write_text(results.read_text().replace("nowhere", "s3://bucket/runs/mae/"))
    assert main(["report", "s3://bucket/runs/mae"]) == 0
    assert capsys.readouterr().out.strip() == "mae.html"
    assert main(["report", str(run), "--out", "pages/here.html"]) == 0
    there, here = Page(tmp_path / "mae.html"), Page(tmp_path / "pages" / "here.html")
    assert there.images == here.images and len(there.images) == 4
    assert there.plots == here.plots and len(there.plots) > 5
    assert "0.806" in there.text and "trained on all" not in there.text and "finished" in there.text
    assert "0.8125" in there.text, "of the evaluation of this URL"
    assert not (run / "report.html").exists()


@needs_rclone
def test_local_and_remote_runs_share_a_page(bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    eventful_run(bucket / "mae", "mae-there")
    eventful_run(tmp_path / "wsp", "wsp-here", "wsp", initialize_from="s3://bucket/mae")
    assert main(["report", "s3://bucket/mae/", "wsp"]) == 0
    page = Page(tmp_path / "comparison.html")
    assert "mae-there" in page.text and "those of wsp-here include mae-there's" in page.text


@needs_rclone
def test_mistakes_are_told_in_a_sentence(bucket: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "s3://bucket/nothing"]) == 2
    assert "s3://bucket/nothing  has no metrics.jsonl; name the folder of a run" in capsys.readouterr().err
    assert main(["report", "s3://no-such-bucket/run"]) == 2
    assert "s3://no-such-bucket/run" in capsys.readouterr().err


@needs_rclone
def test_pictures_reach_the_machine_on_which_a_run_goes_on(bucket: Path, tmp_path: Path) -> None:
    first, second = (RunFolder("s3://bucket/run", tmp_path / name) for name in ("first", "second"))
    eventful_run(first.local)
    add_pictures(first.local, count=30)
    publish_report(first, patience=0)
    second.local.mkdir()
    fetch_pictures(second)
    brought = sorted(path.name for path in (second.local / "pictures").glob("*.png"))
    assert len(brought) == 12 and {"reconstructions-ba80.png", "reconstructions-ba2400.png"} <= {*brought}
    assert all((second.local / "pictures" / name).with_suffix(".json").exists() for name in brought)

    changed = bucket / "run" / "pictures" / "reconstructions-ba80.png"
    before = {path.name: path.stat().st_mtime_ns for path in changed.parent.iterdir()}
    save_picture(second.local / "pictures", "reconstructions", np.zeros((40, 60, 3), np.uint8), "again", 80)
    publish_report(second, patience=0)
    after = {path.name: path.stat().st_mtime_ns for path in changed.parent.iterdir()}
    sent = {name for name, time in after.items() if time != before.get(name)}
    assert sent == {"reconstructions-ba80.png", "reconstructions-ba80.json"}, "only what is new goes there"
    assert changed.read_bytes() == (second.local / "pictures" / changed.name).read_bytes()


def test_what_is_carried_is_bounded() -> None:
    few = [f"few-ba{batch}.{end}" for batch in (9, 10, 100) for end in ("png", "json")]
    many = [f"many-ba{batch}.png" for batch in range(1000)]
    chosen = worth_carrying([*few, *many, "cut.partial", "drawn by hand.png", "drawn by hand.txt"])
    assert {*few, "drawn by hand.png", "drawn by hand.txt", "many-ba0.png", "many-ba999.png"} <= {*chosen}
    assert sum(name.startswith("many") for name in chosen) == 12 and "cut.partial" not in chosen
    assert len(worth_carrying(f"thing {number}-ba{number}.png" for number in range(1000))) == 200
